"""`Interval`: a stretch of a contig, 0-based and half-open, with its strand spelled out."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

Strand = Literal["+", "-", "."]
STRANDS: tuple[Strand, ...] = ("+", "-", ".")
_OPPOSITE: dict[Strand, Strand] = {"+": "-", "-": "+", ".": "."}
_TEXT = re.compile(r"(?P<contig>\S+):(?P<start>-?\d+)-(?P<end>-?\d+)")


@dataclass(frozen=True)
class Interval:
    """Bases `start` to `end - 1` of a contig, counted from 0 (half-open, as in BED).

    An interval may reach below 0 or past its contig's end: such positions hold no base and read as N.

    Raises:
        ValueError: for an empty interval, an unknown strand, or a contig name that is not one word.
    """

    contig: str
    """Name of the sequence, as in the FASTA header up to the first white space."""
    start: int
    """First base, counted from 0."""
    end: int
    """One past the last base."""
    strand: Strand = "."
    """`+`, `-`, or `.` where the strand does not matter."""
    split: str | None = None
    """Name of the data split it belongs to, such as `train`."""
    name: str | None = None
    """A label."""

    def __post_init__(self) -> None:
        if self.contig.split() != [self.contig]:
            raise ValueError(f"a contig name must be one word, got {self.contig!r}")
        if self.end <= self.start:
            raise ValueError(f"interval {self}: the end must be greater than the start")
        if self.strand not in STRANDS:
            raise ValueError(f"interval {self}: strand {self.strand!r} is not one of {', '.join(STRANDS)}")

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.contig}:{self.start}-{self.end}"

    @classmethod
    def parse(cls, text: str) -> Interval:
        """Read `contig:start-end`, as `str(interval)` writes it: 0-based, half-open, no thousands separators.

        Raises:
            ValueError: if the text has another form or names an empty interval.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{text!r} is not an interval: write contig:start-end (0-based, half-open), as chr1:0-1024"
            )
        return cls(match["contig"], int(match["start"]), int(match["end"]))

    def overlaps(self, other: Interval) -> bool:
        """Whether the two share a base, on either strand."""
        return self.contig == other.contig and self.start < other.end and other.start < self.end

    def contains(self, other: Interval) -> bool:
        """Whether every base of `other` lies in this interval, on either strand."""
        return self.contig == other.contig and self.start <= other.start and other.end <= self.end

    def intersect(self, other: Interval) -> Interval | None:
        """The part of this interval that `other` covers too, or None where they share no base."""
        if not self.overlaps(other):
            return None
        return replace(self, start=max(self.start, other.start), end=min(self.end, other.end))

    def clip(self, contig_length: int) -> Interval | None:
        """The part inside a contig of `contig_length` bases, or None where nothing is."""
        start, end = max(self.start, 0), min(self.end, contig_length)
        return replace(self, start=start, end=end) if start < end else None

    def shift(self, offset: int) -> Interval:
        """The interval moved `offset` bases to the right (to the left if negative)."""
        return replace(self, start=self.start + offset, end=self.end + offset)

    def resize(self, length: int) -> Interval:
        """`length` bases about the same centre; of an odd change the right side takes the extra base.

        Raises:
            ValueError: if `length` is below 1.
        """
        start = self.start - (length - len(self)) // 2
        return replace(self, start=start, end=start + length)

    def reverse_complement(self) -> Interval:
        """The same bases read from the other strand; `.` stays as it is."""
        return replace(self, strand=_OPPOSITE[self.strand])
