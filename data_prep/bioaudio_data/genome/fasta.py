"""FASTA as a stream of bases, in bounded memory whatever the length of lines and contigs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

import numpy as np

from bioaudio_data.genome.stream import BaseStream, ContigStart, start_contig
from bioaudio_data.vocabulary import DNA, SOFT_MASK_BIT

Ambiguous = Literal["error", "n"]
AMBIGUITY_LETTERS = "RYSWKMBDHV"
"""IUPAC's letters for sets of bases, besides N."""
LINE_END = np.frombuffer(b"\r\n", np.uint8)
STRAY_RETURN = re.compile(rb"\r(?!\n)")
BLOCK_BYTES = 1 << 20
LONGEST_HEADER = 1 << 16


def read_fasta(file: IO[bytes], path: Path, *, ambiguous: Ambiguous = "error") -> BaseStream:
    """Yield the contigs of an open FASTA file; `path` is for messages.

    A contig's name is its header up to the first blank. Lines end in LF or CRLF and have any width; blank
    lines are skipped. Lower case is soft mask. With `ambiguous="n"`, ambiguity letters are yielded as UNK.

    Raises:
        ValueError: naming file and line, at anything that is not FASTA of DNA.
    """
    return _Fasta(file, path, ambiguous).read()


class _Fasta:
    """Place in the file: the line, and the contig and the position in it."""

    def __init__(self, file: IO[bytes], path: Path, ambiguous: Ambiguous) -> None:
        self.file = file
        self.path = path
        self.table = _letter_table(ambiguous)
        self.line = 1
        self.contig: ContigStart | None = None
        self.position = 0

    def read(self) -> BaseStream:
        for is_header, text in self._pieces():
            yield self._start(text) if is_header else self._bases(text)
        self._close_contig()
        if self.contig is None:
            raise ValueError(f"{self.path} is empty")

    def _pieces(self) -> Iterator[tuple[bool, bytes]]:
        """Whole headers (True), without `>` and line end; and what of a block lies between two (False)."""
        header: bytes | None = None
        line_start = True
        while block := self._next_block():
            at = 0
            while at < len(block):
                if header is None and line_start and block[at] == ord(">"):
                    header, at = b"", at + 1
                if header is None:
                    following = block.find(b"\n>", at)
                    end = following + 1 if following >= 0 else len(block)
                    yield False, block[at:end]
                    line_start, at = block[end - 1] == ord("\n"), end
                    continue
                end = block.find(b"\n", at)
                header += block[at : end if end >= 0 else len(block)]
                if len(header) > LONGEST_HEADER:
                    raise self._error(f"the header is longer than {LONGEST_HEADER:,} bytes")
                if end < 0:
                    break
                yield True, header
                header, line_start, at = None, True, end + 1
        if header is not None:
            yield True, header

    def _next_block(self) -> bytes:
        block = self.file.read(BLOCK_BYTES)
        if block.endswith(b"\r"):
            block += self.file.read(1)
        if b"\r" in block and (stray := STRAY_RETURN.search(block)):
            raise self._error(
                "a carriage return that ends no line; lines end in LF or CRLF", block[: stray.start()]
            )
        return block

    def _start(self, header: bytes) -> ContigStart:
        self._close_contig()
        name = header.split(None, 1)[0] if header[:1].strip() else b""
        self.contig, self.position = start_contig(name, f"{self.path}:{self.line}"), 0
        self.line += 1
        return self.contig

    def _close_contig(self) -> None:
        if self.contig is not None and not self.position:
            raise ValueError(
                f"{self.contig.place}: contig {self.contig.name!r} has no bases; is the file cut short?"
            )

    def _bases(self, text: bytes) -> np.ndarray:
        """Bytes of the store for some sequence lines, or parts of lines."""
        bases = np.frombuffer(text.translate(self.table, b"\r\n"), np.uint8)
        if bases.size and (self.contig is None or not bases.min()):
            raise self._bad_letter(text, int(np.argmin(bases)))
        self.line += text.count(b"\n")
        self.position += bases.size
        return bases

    def _bad_letter(self, text: bytes, index: int) -> ValueError:
        """The error for letter `index` of the lines in `text`, or for the first if no contig has begun."""
        letters = np.flatnonzero(~np.isin(np.frombuffer(text, np.uint8), LINE_END))
        at = int(letters[index if self.contig else 0])
        letter, before = chr(text[at]), text[:at]
        if self.contig is None:
            return self._error(f"a FASTA file begins with '>', this one with {letter!r}", before)
        place = f"{letter!r} at base {self.position + index + 1:,} of contig {self.contig.name!r}"
        if letter.upper() in AMBIGUITY_LETTERS:
            return self._error(
                f"{place} is an ambiguity letter; to store such letters as N: --ambiguous n", before
            )
        if letter.upper() == "U":
            return self._error(f"{place} is RNA, only DNA is stored; write T for U first", before)
        return self._error(f"{place} is not a nucleotide (A, C, G, T or N)", before)

    def _error(self, message: str, before: bytes = b"") -> ValueError:
        """An error at the line that follows the text `before`."""
        line = self.line + before.count(b"\n")
        return ValueError(f"{self.path}:{line}: {message}")


def _letter_table(ambiguous: Ambiguous) -> bytes:
    """For `bytes.translate`: each letter's byte, UNK for an ambiguity letter, 0 for what cannot be kept."""
    kept = {letter: DNA.tokens.index(letter) for letter in "ACGTN"}
    if ambiguous == "n":
        kept |= dict.fromkeys(AMBIGUITY_LETTERS, DNA.UNK)
    table = bytearray(256)
    for letter, base in kept.items():
        table[ord(letter)] = base
        table[ord(letter.lower())] = base | SOFT_MASK_BIT
    return bytes(table)
