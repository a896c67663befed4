"""One file of a genome, whatever its format: told by its first bytes, hashed, read as a stream of bases."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Literal, cast

from bioaudio_data.genome import twobit
from bioaudio_data.genome.fasta import Ambiguous, read_fasta
from bioaudio_data.genome.stream import BaseStream

Format = Literal["FASTA", "gzip", "2bit"]
BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
"""The empty block that ends every whole file of bgzip."""


def source_format(path: Path) -> Format:
    """Tell a file's format from its content; the ending counts only for .2bit, to name a damaged one as such.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a regular file, or empty.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give its FASTA or .2bit files")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file; it is read twice, so it cannot be a pipe")
    with path.open("rb") as file:
        head = file.read(4)
    if not head:
        raise ValueError(f"{path} is empty")
    if head in twobit.SIGNATURES or path.suffix == ".2bit":
        return "2bit"
    return "gzip" if head.startswith(b"\x1f\x8b") else "FASTA"


def store_bytes(path: Path) -> int:
    """Bytes that a file takes in a store: exact for .2bit, at most so many for FASTA, at least for gzip."""
    if source_format(path) != "2bit":
        return path.stat().st_size
    with path.open("rb") as file:
        return twobit.count_bases(file, path)


def read_source(
    path: Path, advance: Callable[[int], object], *, ambiguous: Ambiguous = "error"
) -> BaseStream:
    """Yield the contigs of a FASTA file, plain or compressed by gzip or bgzip, or of a .2bit file.

    `advance` is told how many bytes of the file were read since it was told before.

    Raises:
        ValueError: naming the file and the place, at anything that cannot be stored.
    """
    kind = source_format(path)
    with ExitStack() as stack:
        raw = stack.enter_context(path.open("rb"))
        if kind == "2bit":
            stream = twobit.read_twobit(raw, path)
        elif kind == "gzip":
            _check_bgzip_end(raw, path)
            text = stack.enter_context(gzip.GzipFile(fileobj=raw))
            stream = read_fasta(cast(IO[bytes], text), path, ambiguous=ambiguous)
        else:
            stream = read_fasta(raw, path, ambiguous=ambiguous)
        told = 0
        try:
            for item in stream:
                yield item
                here = raw.tell()
                advance(here - told)
                told = here
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: its gzip data is cut short or damaged ({error})") from error


def _check_bgzip_end(file: IO[bytes], path: Path) -> None:
    """A file of bgzip that was cut between two blocks is valid gzip: only its end tells."""
    head = file.read(14)
    if head[3:4] == b"\x04" and head[12:14] == b"BC":
        file.seek(-min(len(BGZF_END), path.stat().st_size), 2)
        if file.read() != BGZF_END:
            raise ValueError(f"{path} is cut short: the block that ends a file of bgzip is missing")
    file.seek(0)
