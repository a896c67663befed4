"""UCSC's .2bit as a stream of bases (https://genome.ucsc.edu/FAQ/FAQformat.html#format7)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from bioaudio_data.genome.stream import BaseStream, ContigStart, start_contig
from bioaudio_data.vocabulary import DNA, SOFT_MASK_BIT

SIGNATURES = {bytes.fromhex("4327411a"): "<", bytes.fromhex("1a412743"): ">"}
"""First four bytes of a file, and the byte order that they tell."""
BLOCK_BASES = 1 << 20
"""A multiple of 4, the bases of one byte."""


def read_twobit(file: IO[bytes], path: Path) -> BaseStream:
    """Yield the contigs of an open .2bit file, in the order of its index; `path` is for messages.

    Reads versions 0 and 1 (64-bit offsets) in either byte order, N blocks and mask blocks.

    Raises:
        ValueError: naming file and contig, if it is cut short or not .2bit.
    """
    return _TwoBit(file, path).read()


def count_bases(file: IO[bytes], path: Path) -> int:
    """Bases of all contigs of an open .2bit file; raises as `read_twobit`."""
    return _TwoBit(file, path).count_bases()


class _TwoBit:
    """An open file: its byte order and size, and the records that its index names."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self.file = file
        self.path = path
        self.size = file.seek(0, 2)
        file.seek(0)
        self.order = SIGNATURES.get(file.read(4), "")
        if not self.order:
            raise ValueError(f"{path} is not a .2bit file: its first four bytes are not the signature")

    def read(self) -> BaseStream:
        for start, place in self._records():
            yield start
            yield from self._bases(place)

    def count_bases(self) -> int:
        return sum(int(self._integers(1, place)[0]) for _, place in self._records())

    def _records(self) -> Iterator[tuple[ContigStart, str]]:
        """Each contig and its place for messages, with the file's position at its record."""
        for number, (name, offset) in enumerate(self._index(), start=1):
            start = start_contig(name, f"{self.path}: record {number}")
            place = f"{self.path}: contig {start.name!r}"
            self.file.seek(min(max(offset, 0), self.size))
            yield start, place

    def _index(self) -> list[tuple[bytes, int]]:
        """Names and offsets of the records."""
        version, count, _ = self._integers(3, f"{self.path}: the header")
        if version not in (0, 1):
            raise ValueError(f"{self.path}: .2bit version {version} is unknown; versions 0 and 1 are read")
        if not count:
            raise ValueError(f"{self.path} is empty: its header promises no contig")
        index = []
        for number in range(1, int(count) + 1):
            place = f"{self.path}: record {number} of {count} of the index"
            name = self._bytes(self._bytes(1, place)[0], place)
            index.append((name, int(self._integers(1, place, "u8" if version else "u4")[0])))
        return index

    def _bases(self, place: str) -> Iterator[np.ndarray]:
        """Runs of bases of the record at the file's position."""
        length = int(self._integers(1, place)[0])
        if not length:
            raise ValueError(f"{place} has no bases")
        unknown = self._blocks(length, f"{place}, N blocks")
        masked = self._blocks(length, f"{place}, mask blocks")
        self._integers(1, place)
        self._expect(-(-length // 4), place)
        for start in range(0, length, BLOCK_BASES):
            count = min(BLOCK_BASES, length - start)
            packed = np.frombuffer(self._bytes(-(-count // 4), place), np.uint8)
            bases = _UNPACK[packed].view(np.uint8)[:count]
            bases[_inside(unknown, start, count)] = DNA.N
            bases[_inside(masked, start, count)] |= SOFT_MASK_BIT
            yield bases

    def _blocks(self, length: int, place: str) -> tuple[np.ndarray, np.ndarray]:
        """Starts and ends, int64 (n_blocks,), in order and apart."""
        count = int(self._integers(1, place)[0])
        starts = self._integers(count, place)
        ends = starts + self._integers(count, place)
        if count and not (np.all(starts < ends) and np.all(starts[1:] >= ends[:-1]) and ends[-1] <= length):
            raise ValueError(
                f"{place} are out of order or reach beyond the {length:,} bases: the file is damaged"
            )
        return starts, ends

    def _integers(self, count: int, place: str, kind: str = "u4") -> np.ndarray:
        dtype = np.dtype(self.order + kind)
        return np.frombuffer(self._bytes(count * dtype.itemsize, place), dtype).astype(np.int64)

    def _bytes(self, count: int, place: str) -> bytes:
        self._expect(count, place)
        return self.file.read(count)

    def _expect(self, count: int, place: str) -> None:
        """Check that the file has `count` more bytes, before memory is taken for them."""
        if self.file.tell() + count > self.size:
            raise ValueError(
                f"{place} lies beyond the file's {self.size:,} bytes: it is cut short or damaged"
            )


def _inside(blocks: tuple[np.ndarray, np.ndarray], start: int, count: int) -> np.ndarray:
    """Whether each of the bases `start` to `start + count` is in a block: bool (count,)."""
    starts, ends = blocks
    first, last = np.searchsorted(ends, start, "right"), np.searchsorted(starts, start + count, "left")
    edges = np.stack([starts[first:last], ends[first:last]], axis=1).ravel()
    edges = np.concatenate([[0], np.clip(edges - start, 0, count), [count]])
    return np.repeat(np.arange(edges.size - 1) % 2 == 1, np.diff(edges))


def _unpack_table() -> np.ndarray:
    """The four bases of each byte, first base in the highest bits: uint32 (256,), to be viewed as uint8."""
    bases = np.array([DNA.T, DNA.C, DNA.A, DNA.G], np.uint8)
    codes = (np.arange(256)[:, None] >> np.array([6, 4, 2, 0])) & 3
    return np.ascontiguousarray(bases[codes]).view(np.uint32)[:, 0]


_UNPACK = _unpack_table()
