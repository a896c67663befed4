"""Bases that windows of two splits share: windows that outgrow their segments can reach another split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
) -> list[Leak]:
    """Every pair of splits, at every window length, whose windows share bases: O(n log n) in the segments.

    Args:
        splits: segments of each split.
        lengths: bases in a window.
        rule: where the windows of a segment lie.
        contig_lengths: lengths of the contigs, where known: what sticks out of a contig is no base.
        max_shift: bases by which the augmentation may move any window to either side.

    Raises:
        ValueError: as `Windows`, for a split that has no window of a length.
    """
    leaks = []
    for length in lengths:
        windows = {name: Windows(split, length, rule, contig_lengths) for name, split in splits.items()}
        line = _Line.of(windows.values(), contig_lengths, max_shift)
        runs = {name: line.covered(each) for name, each in windows.items()}
        for one, other in combinations(windows, 2):
            bases, first = _shared(runs[one], runs[other])
            if bases:
                pair = (line.window_over(windows[one], first), line.window_over(windows[other], first))
                leaks.append(Leak(length, (one, other), bases, pair))
    return leaks


def check_leakage(
    splits: Mapping[str, Sequence[Interval]],
    lengths: Iterable[int],
    rule: WindowRule,
    contig_lengths: Mapping[str, int] | None = None,
    *,
    max_shift: int = 0,
) -> None:
    """Refuse splits whose windows share bases; arguments as `find_leaks`.

    Raises:
        ValueError: naming the first pair of windows that overlap and the number of bases shared.
    """
    leaks = find_leaks(splits, lengths, rule, contig_lengths, max_shift=max_shift)
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


class _Line(NamedTuple):
    """All contigs laid end to end on one line, `stride` apart, so that one sort serves them all."""

    place: Mapping[str, int]
    stride: int
    limits: NDArray[np.int64]
    max_shift: int

    @classmethod
    def of(
        cls, windows: Iterable[Windows], contig_lengths: Mapping[str, int] | None, max_shift: int
    ) -> _Line:
        every = list(windows)
        contigs = list(dict.fromkeys(contig for each in every for contig in each.contigs))
        furthest = max(int(each.spans()[2].max()) for each in every) + max_shift
        lengths = [furthest if contig_lengths is None else contig_lengths[contig] for contig in contigs]
        place = {contig: i for i, contig in enumerate(contigs)}
        return cls(place, max(lengths), np.array(lengths, dtype=np.int64), max_shift)

    def covered(self, windows: Windows) -> _Runs:
        """The bases that a split's windows reach, as positions on the line."""
        contig, starts, ends = (array[windows.spans()[1] < windows.spans()[2]] for array in windows.spans())
        contig = np.array([self.place[name] for name in windows.contigs])[contig]
        starts = np.maximum(starts - self.max_shift, 0) + contig * self.stride
        ends = np.minimum(ends + self.max_shift, self.limits[contig]) + contig * self.stride
        order = np.argsort(starts)
        starts, ends = starts[order], np.maximum.accumulate(ends[order])
        new = np.concatenate([[True], starts[1:] > ends[:-1]])
        return _Runs(starts[new], ends[np.concatenate([new[1:], [True]])])

    def window_over(self, windows: Windows, position: int) -> Interval:
        """The first window that reaches a position on the line."""
        place, base = divmod(position, self.stride)
        contig, starts, ends = windows.spans()
        same = np.array([self.place[name] for name in windows.contigs])[contig] == place
        reach = same & (starts - self.max_shift <= base) & (base < ends + self.max_shift)
        numbers = windows.of_segment(int(np.argmax(reach)))
        _, firsts = windows.locate(np.array(numbers))
        near = (firsts - self.max_shift <= base) & (base < firsts + windows.length + self.max_shift)
        return windows[numbers[int(np.argmax(near))]]


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
