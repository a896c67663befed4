"""Bases that windows of two splits share: windows that outgrow their segments can reach another split."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bioaudio_data.interval import Interval
from bioaudio_data.windows import WindowRule, Windows


@dataclass(frozen=True)
class Leak:
    """Two splits whose windows of one length share bases."""

    length: int
    """Bases in a window."""
    splits: tuple[str, str]
    """The two splits."""
    bases: int
    """Bases of the genome that lie in windows of both."""
    windows: tuple[Interval, Interval]
    """A window of each that reaches the first of these bases."""

    def __str__(self) -> str:
        (one, other), (first, second) = self.splits, self.windows
        return (
            f"windows of {self.length}: {one} and {other} share {self.bases} bases, "
            f"first {one} {first} and {other} {second}"
        )


def find_leaks(
    splits: Mapping[str, Sequence[Interval]],
    lengths: Iterable[int],
    rule: WindowRule,
    contig_lengths: Mapping[str, int] | None = None,
    *,
    max_shift: int = 0,
    cut: Collection[str] | None = None,
) -> list[Leak]:
    """Every pair of splits, at every window length, whose windows share bases: O(n log n) in the segments.

    Args:
        splits: segments of each split.
        lengths: bases in a window.
        rule: where the windows of a segment lie.
        contig_lengths: lengths of the contigs, where known: what sticks out of a contig is no base.
        max_shift: bases by which the augmentation may move a window to either side.
        cut: splits that are cut into windows by `rule`, and shifted: all unless given. Of the others, the
            bases of their segments count, of which a leak names the first.

    Raises:
        ValueError: as `Windows`, except that a split too small for a window cannot leak.
    """
    leaks = []
    for length in lengths:
        reaches: dict[str, _Reach] = {}
        for name, segments in splits.items():
            whole = cut is not None and name not in cut
            fitting = [s for s in segments if whole or rule != "tile" or len(s) >= length]
            if fitting:
                windows = Windows(fitting, *((1, "tile") if whole else (length, rule)), contig_lengths)
                reaches[name] = _Reach(windows, 0 if whole else max_shift)
        line = _Line.of(reaches.values(), contig_lengths)
        runs = {name: line.covered(reach) for name, reach in reaches.items()}
        for one, other in combinations(reaches, 2):
            bases, first = _shared(runs[one], runs[other])
            if bases:
                pair = (line.window_over(reaches[one], first), line.window_over(reaches[other], first))
                leaks.append(Leak(length, (one, other), bases, pair))
    return leaks


def check_leakage(
    splits: Mapping[str, Sequence[Interval]],
    lengths: Iterable[int],
    rule: WindowRule,
    contig_lengths: Mapping[str, int] | None = None,
    *,
    max_shift: int = 0,
    cut: Collection[str] | None = None,
) -> None:
    """Refuse splits whose windows share bases; arguments as `find_leaks`.

    Raises:
        ValueError: naming the first pair of windows that overlap and the number of bases shared.
    """
    leaks = find_leaks(splits, lengths, rule, contig_lengths, max_shift=max_shift, cut=cut)
    if leaks:
        others = f" (and {len(leaks) - 1} more pairs of splits and lengths)" if len(leaks) > 1 else ""
        raise ValueError(
            f"leakage between splits under rule {rule}: {leaks[0]}{others}; use --rule tile, "
            "smaller --lengths, or splits further apart"
        )


class _Runs(NamedTuple):
    """Disjoint stretches in ascending order: two arrays of one entry a stretch."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]


class _Reach(NamedTuple):
    """Windows, and the bases by which each may move to either side."""

    windows: Windows
    shift: int

    def spans(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """As those of the windows, for the segments that have windows, moved both ways."""
        contig, starts, ends = (array[self.windows.numbers > 0] for array in self.windows.spans())
        return contig, starts - self.shift, ends + self.shift


class _Line(NamedTuple):
    """All contigs laid end to end on one line, `stride` apart, so that one sort serves them all."""

    place: Mapping[str, int]
    limits: NDArray[np.int64]
    stride: int

    @classmethod
    def of(cls, reaches: Iterable[_Reach], contig_lengths: Mapping[str, int] | None) -> _Line:
        every = list(reaches)
        contigs = dict.fromkeys(contig for reach in every for contig in reach.windows.contigs)
        furthest = max((int(reach.spans()[2].max()) for reach in every), default=1)
        limits = [furthest if contig_lengths is None else contig_lengths[contig] for contig in contigs]
        return cls({contig: i for i, contig in enumerate(contigs)}, np.array(limits), max(limits, default=1))

    def covered(self, reach: _Reach) -> _Runs:
        """The bases within reach, as positions on the line."""
        contig, starts, ends = reach.spans()
        contig = self._places(reach.windows)[contig]
        starts = np.maximum(starts, 0) + contig * self.stride
        ends = np.minimum(ends, self.limits[contig]) + contig * self.stride
        order = np.argsort(starts)
        starts, ends = starts[order], np.maximum.accumulate(ends[order])
        new = np.concatenate([[True], starts[1:] > ends[:-1]])
        return _Runs(starts[new], ends[np.concatenate([new[1:], [True]])])

    def window_over(self, reach: _Reach, position: int) -> Interval:
        """The first window that reaches a position on the line."""
        windows, shift = reach
        place, base = divmod(position, self.stride)
        contig, starts, ends = windows.spans()
        here = (self._places(windows)[contig] == place) & (starts - shift <= base) & (base < ends + shift)
        own = windows.of_segment(int(np.argmax(here & (windows.numbers > 0))))
        if len(own) > 2:  # side by side: skip those that end before the base
            skipped = (base - shift - windows[own[0]].start) // windows.length
            own = own[max(0, skipped) :]
        reaches = (n for n in own if windows[n].start - shift <= base < windows[n].end + shift)
        return windows[next(reaches)]

    def _places(self, windows: Windows) -> NDArray[np.int64]:
        return np.array([self.place[contig] for contig in windows.contigs], dtype=np.int64)


def _shared(ours: _Runs, theirs: _Runs) -> tuple[int, int]:
    """How many positions lie in both, and the first of them (0 if none does)."""
    shared = _before(theirs, ours.ends) - _before(theirs, ours.starts)
    if not shared.any():
        return 0, 0
    start = ours.starts[np.argmax(shared > 0)]
    overlapping = np.searchsorted(theirs.ends, start, side="right")
    return int(shared.sum()), int(max(start, theirs.starts[overlapping]))


def _before(runs: _Runs, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many positions of `runs` lie before each of `positions`."""
    begun = np.searchsorted(runs.starts, positions, side="right")
    whole = np.concatenate([[0], np.cumsum(runs.ends - runs.starts)])[begun]
    return whole - np.maximum(np.concatenate([[0], runs.ends])[begun] - positions, 0)
