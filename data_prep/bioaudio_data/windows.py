"""Windows of one length over the segments of a split, by the rule of a paper: computed, never listed.

Every rule places the windows of a segment at `first, first + step, first + 2 step, ...`:

| rule       | segment of at least L bases           | shorter segment                                     |
|------------|---------------------------------------|-----------------------------------------------------|
| `mamba`    | floor(length / L) pieces side by side | two windows: one begins with it, one ends with it   |
| `hyenadna` | its first L bases                     | one window: the segment, extended alike at both ends |
| `tile`     | floor(length / L) pieces side by side | none                                                |
| `caduceus` | of any length: [start, start + 2^20), moved to fit its contig, cut into 2^20 / L pieces     |

`mamba` is appendix E.3 of the Mamba paper (arXiv 2312.00752); `hyenadna` and `caduceus` do as the data sets
published with those papers, except at the ends of contigs. `mamba` and `hyenadna` windows longer than their
segment may stick out there, and what is outside reads as N (HyenaDNA pads on the left, always).
Caduceus moves every window that passes the end by itself, so that several repeat the last L bases; here the
2^20 bases move as one. Windows that leave their segment can reach another split (see `leakage`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, get_args, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bioaudio_data.interval import Interval
from bioaudio_data.plan import StagePlan, plan_stages

__all__ = ["CADUCEUS_SEGMENT", "StagePlan", "WindowRule", "Windows", "plan_stages"]

WindowRule = Literal["mamba", "hyenadna", "caduceus", "tile"]
CADUCEUS_SEGMENT = 2**20
"""Bases to which the `caduceus` rule extends every segment."""


class _Placement(NamedTuple):
    """The windows of each segment as an arithmetic series; three arrays with one entry a segment."""

    first: NDArray[np.int64]
    step: NDArray[np.int64]
    number: NDArray[np.int64]


class Windows(Sequence[Interval]):
    """All windows of `length` bases over `segments`, in the order of the segments; takes O(segments) memory.

    Args:
        segments: stretches of DNA to cut, usually those of one split.
        length: bases in a window.
        rule: where the windows lie, see the module's table.
        contig_lengths: lengths of the contigs, where known: segments are then checked to lie inside, and
            `caduceus` moves its windows to fit.

    Raises:
        ValueError: for a window longer than every contig, no windows at all, a segment outside its contig, an
            unknown rule, or a length that `caduceus` cannot cut.
    """

    def __init__(
        self,
        segments: Sequence[Interval],
        length: int,
        rule: WindowRule,
        contig_lengths: Mapping[str, int] | None = None,
    ) -> None:
        if length < 1:
            raise ValueError(f"a window must have at least 1 base, got length {length}")
        if not segments:
            raise ValueError("no segments to cut into windows: the split is empty")
        self.segments = tuple(segments)
        self.length = length
        self.rule: WindowRule = rule
        self.contigs: tuple[str, ...] = tuple(dict.fromkeys(segment.contig for segment in self.segments))
        position = {contig: i for i, contig in enumerate(self.contigs)}
        self._contig = np.array([position[segment.contig] for segment in self.segments], dtype=np.int64)
        starts = np.array([segment.start for segment in self.segments], dtype=np.int64)
        ends = np.array([segment.end for segment in self.segments], dtype=np.int64)
        limits = None
        if contig_lengths is not None:
            _check_inside(self.segments, length, contig_lengths)
            limits = np.array([contig_lengths[segment.contig] for segment in self.segments], dtype=np.int64)
        self._placement = _place(rule, starts, ends, length, limits)
        self._stops = np.cumsum(self._placement.number)
        if not len(self):
            longest = max(self.segments, key=len)
            raise ValueError(
                f"no window of {length} bases fits: the longest segment, {longest}, has {len(longest)}; "
                "choose a smaller --lengths, or a --rule that extends segments"
            )

    def __len__(self) -> int:
        return int(self._stops[-1])

    @overload
    def __getitem__(self, index: int) -> Interval: ...
    @overload
    def __getitem__(self, index: slice) -> list[Interval]: ...
    def __getitem__(self, index: int | slice) -> Interval | list[Interval]:
        """Window `index`, with the strand, split and name of its segment.

        Raises:
            IndexError: beyond the last window.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        segment, start = self._locate(np.array([index % len(self)]))
        return replace(self.segments[segment[0]], start=int(start[0]), end=int(start[0]) + self.length)

    def locate(self, indices: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where many windows lie, without making an `Interval` of each.

        Args:
            indices: window numbers from 0 to len - 1, an array of any shape.

        Returns:
            Position of the contig in `contigs`, and first base of the window, both in the shape of `indices`.

        Raises:
            IndexError: for a number outside 0 .. len - 1.
        """
        numbers = np.asarray(indices, dtype=np.int64)
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < len(self)):
            raise IndexError(f"window numbers must lie in 0 .. {len(self) - 1}")
        segment, start = self._locate(numbers)
        return self._contig[segment], start

    def _locate(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        segment = np.searchsorted(self._stops, numbers, side="right")
        within = numbers - (self._stops[segment] - self._placement.number[segment])
        return segment, self._placement.first[segment] + within * self._placement.step[segment]

    @property
    def numbers(self) -> NDArray[np.int64]:
        """How many windows each segment has."""
        return self._placement.number

    def of_segment(self, position: int) -> range:
        """The numbers of the windows of segment `position`."""
        stop = int(self._stops[position])
        return range(stop - int(self._placement.number[position]), stop)

    def spans(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The bases that the windows of each segment cover, which no rule leaves gaps in.

        Returns:
            Position of the contig in `contigs`, first base, and one past the last base (equal where a segment
            has no window), one entry a segment.
        """
        first, step, number = self._placement
        last = first + np.maximum(number - 1, 0) * step
        ends = np.where(number > 0, np.maximum(first, last) + self.length, first)
        return self._contig, np.minimum(first, last), ends


def _check_inside(segments: Sequence[Interval], length: int, contig_lengths: Mapping[str, int]) -> None:
    for segment in segments:
        if segment.contig not in contig_lengths:
            raise ValueError(f"segment {segment}: there is no contig {segment.contig!r}")
        if segment.start < 0 or segment.end > contig_lengths[segment.contig]:
            raise ValueError(
                f"segment {segment} leaves its contig, which has {contig_lengths[segment.contig]} bases"
            )
    longest = max(contig_lengths, key=lambda contig: contig_lengths[contig])
    if length > contig_lengths[longest]:
        raise ValueError(
            f"a window of {length} bases is longer than every contig: the longest, {longest}, has "
            f"{contig_lengths[longest]}; choose smaller --lengths"
        )


def _place(
    rule: WindowRule,
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    length: int,
    limits: NDArray[np.int64] | None,
) -> _Placement:
    lengths = ends - starts
    pieces = lengths // length
    side_by_side = np.full_like(starts, length)
    match rule:
        case "tile":
            return _Placement(starts, side_by_side, pieces)
        case "mamba":
            fits = pieces > 0
            # Over a shorter segment the second window lies to the left of the first: a negative step.
            return _Placement(starts, np.where(fits, length, lengths - length), np.where(fits, pieces, 2))
        case "hyenadna":
            missing = np.maximum(length - lengths, 0)
            return _Placement(starts - missing // 2, side_by_side, np.ones_like(starts))
        case "caduceus":
            first = _fit_caduceus(starts, length, limits)
            return _Placement(first, side_by_side, np.full_like(starts, CADUCEUS_SEGMENT // length))
    raise ValueError(f"unknown window rule {rule!r}: choose one of {', '.join(get_args(WindowRule))}")


def _fit_caduceus(
    starts: NDArray[np.int64], length: int, limits: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    if CADUCEUS_SEGMENT % length:
        raise ValueError(
            f"the caduceus rule cannot cut {CADUCEUS_SEGMENT} bases into windows of {length}: "
            "choose powers of two up to 2^20 for --lengths, or another --rule"
        )
    if limits is None:
        return starts
    if limits.min() < CADUCEUS_SEGMENT:
        raise ValueError(
            f"the caduceus rule needs contigs of at least {CADUCEUS_SEGMENT} bases, and the shortest of "
            f"these segments' contigs has {limits.min()}: choose another --rule"
        )
    return np.minimum(starts, limits - CADUCEUS_SEGMENT)
