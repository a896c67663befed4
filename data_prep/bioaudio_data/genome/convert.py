"""Convert genome files to a store: one pass, bounded memory, whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Literal, get_args

import numpy as np
from tqdm import tqdm

from bioaudio_data.atomic_folder import atomic_folder, check_space
from bioaudio_data.genome.fasta import Ambiguous
from bioaudio_data.genome.index import BASES_FILE, Contig, GenomeIndex, Source
from bioaudio_data.genome.source import read_source, store_bytes
from bioaudio_data.genome.store import GenomeStore
from bioaudio_data.genome.stream import BaseStream, ContigStart
from bioaudio_data.store_folder import check_out, sha256_of
from bioaudio_data.vocabulary import DNA, SOFT_MASK_BIT, TOKEN_BITS

SoftMask = Literal["keep", "drop"]


def convert_genome(
    sources: Sequence[Path],
    out: Path,
    *,
    ambiguous: Ambiguous = "error",
    soft_mask: SoftMask = "keep",
    overwrite: bool = False,
    progress: bool = True,
) -> GenomeStore:
    """Write the contigs of FASTA (plain, gzip, bgzip) and .2bit files into one store, in the order given.

    The store appears at `out` only when it is complete and on disk; with `overwrite` it replaces an older
    store in one step. `ambiguous="n"` stores IUPAC's ambiguity letters as N, `soft_mask="drop"` stores every
    base unmasked.

    Raises:
        FileNotFoundError: if a source is missing.
        FileExistsError: if `out` exists, without `overwrite`, or is no store.
        ValueError: naming file and place, at anything in a source that cannot be stored.
        OSError: if the disk is full.
    """
    sources, out = [Path(source) for source in sources], Path(out).resolve()
    for flag, value, allowed in (("ambiguous", ambiguous, Ambiguous), ("soft-mask", soft_mask, SoftMask)):
        if value not in get_args(allowed):
            raise ValueError(f"--{flag} must be one of {', '.join(get_args(allowed))}; got {value!r}")
    if not sources:
        raise ValueError("no genome files were given; give at least one FASTA or .2bit file")
    check_out(out, overwrite, "genome store", frozenset({BASES_FILE}))
    check_space(out, sum(map(store_bytes, sources)))
    with _bar(sources, out, progress) as bar, atomic_folder(out, replace=overwrite) as folder:
        hashes = tuple(Source(source.name, sha256_of(source, bar.update)) for source in sources)
        with (folder / BASES_FILE).open("wb") as file:
            writer = _Writer(file, soft_mask)
            for source in sources:
                writer.append(source, read_source(source, bar.update, ambiguous=ambiguous))
        writer.index(hashes).write(folder)
    return GenomeStore.open(out)


class _Writer:
    """`bases.u8` as it grows, and what its index will say."""

    def __init__(self, file: IO[bytes], soft_mask: SoftMask) -> None:
        self.file = file
        self.soft_mask = soft_mask
        self.digest = hashlib.sha256()
        self.starts: dict[str, tuple[ContigStart, int]] = {}
        self.composition = dict.fromkeys([*"ACGTN", "soft_masked", "ambiguous"], 0)
        self.size = 0

    def append(self, source: Path, stream: BaseStream) -> None:
        """Add all contigs of a file."""
        begin, masked = self.size, 0
        for item in stream:
            if isinstance(item, ContigStart):
                self._start(item)
            else:
                masked += int(np.count_nonzero(item & SOFT_MASK_BIT))
                self._write(item)
        if self.soft_mask == "drop":
            return
        if masked == self.size - begin:
            raise ValueError(
                f"{source}: every base is lower case, so its soft mask says nothing; "
                "to store all bases unmasked: --soft-mask drop"
            )
        self.composition["soft_masked"] += masked

    def index(self, sources: tuple[Source, ...]) -> GenomeIndex:
        """The index of all that was added."""
        offsets = [offset for _, offset in self.starts.values()]
        ends = [*offsets[1:], self.size]
        return GenomeIndex(
            contigs=tuple(
                Contig(n, end - start, start)
                for n, start, end in zip(self.starts, offsets, ends, strict=True)
            ),
            sources=sources,
            sha256=self.digest.hexdigest(),
            composition=self.composition,
        )

    def _start(self, contig: ContigStart) -> None:
        if contig.name in self.starts:
            first, _ = self.starts[contig.name]
            raise ValueError(f"{contig.place}: contig {contig.name!r} was seen before, at {first.place}")
        self.starts[contig.name] = contig, self.size

    def _write(self, bases: np.ndarray) -> None:
        ids = bases & TOKEN_BITS
        counts = {letter: int(np.count_nonzero(ids == DNA.tokens.index(letter))) for letter in "ACGTN"}
        ambiguous = bases.size - sum(counts.values())
        if ambiguous:
            bases = np.where(ids == DNA.UNK, bases & SOFT_MASK_BIT | DNA.N, bases)
            counts["N"] += ambiguous
        if self.soft_mask == "drop":
            bases = bases & TOKEN_BITS
        for name, count in (counts | {"ambiguous": ambiguous}).items():
            self.composition[name] += count
        self.digest.update(bases.data)
        self.file.write(bases.data)
        self.size += bases.size


def _bar(sources: Sequence[Path], out: Path, progress: bool) -> tqdm:
    """Progress in bytes of the files, each of which is read twice: to hash it and to convert it."""
    total = 2 * sum(source.stat().st_size for source in sources)
    quiet = None if progress else True  # None: only on a terminal
    return tqdm(total=total, unit="B", unit_scale=True, desc=out.name, leave=False, disable=quiet)
