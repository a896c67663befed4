"""Windows of one length inside a split's segments: drawn at random to train on, evenly spaced to judge by.

Three faults of HyenaDNA's species data set (src/dataloaders/datasets/species_dataset.py) are shut out: a
sample depends on nothing but (seed, epoch, index); the last bases of a contig can be drawn like all others;
and no window is cut short and filled up with N.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from bioaudio_data.interval import Interval

ContigWeight = Literal["uniform", "length"]
DRAW_STREAM = 0x77696E646F77
"""Keeps these random numbers apart from those of other parts that are seeded by (seed, epoch, index) too."""


class WindowPool:
    """Every window of `length` bases that lies inside one of `segments`, numbered from 0, one base apart.

    Segments shorter than `length` hold no window and take no part.
    """

    def __init__(self, segments: Sequence[Interval], length: int) -> None:
        self.length = length
        fitting = sorted((s for s in segments if len(s) >= length), key=lambda s: (s.contig, s.start))
        self.segments = tuple(fitting)
        self._offsets = np.cumsum([0] + [len(s) - length + 1 for s in fitting])
        contigs = [s.contig for s in fitting]
        first = [i for i, contig in enumerate(contigs) if i == 0 or contigs[i - 1] != contig]
        self._contig_offsets = self._offsets[[*first, len(fitting)]]

    def __len__(self) -> int:
        return int(self._offsets[-1])

    def __getitem__(self, number: int) -> Interval:
        if not 0 <= number < len(self):
            raise IndexError(f"window {number} of {len(self)}")
        which = int(np.searchsorted(self._offsets, number, side="right")) - 1
        segment = self.segments[which]
        start = segment.start + number - int(self._offsets[which])
        return Interval(segment.contig, start, start + self.length)

    @property
    def disjoint(self) -> int:
        """How many windows fit in the segments without sharing a base."""
        return sum(len(s) // self.length for s in self.segments)

    def draw(self, rng: np.random.Generator, weight: ContigWeight) -> Interval:
        """A contig, uniformly or by its number of windows; then a window of it, uniformly."""
        first, last = 0, len(self)
        if weight == "uniform":
            contig = rng.integers(len(self._contig_offsets) - 1)
            first, last = self._contig_offsets[contig : contig + 2]
        return self[int(rng.integers(first, last))]

    def spread(self, count: int) -> list[Interval]:
        """`count` windows from the first to the last at equal steps (the middle one if `count` is 1)."""
        if count == 1:
            return [self[(len(self) - 1) // 2]]
        return [self[i * (len(self) - 1) // (count - 1)] for i in range(count)]


def pools(segments: Mapping[str, Sequence[Interval]], length: int, split: str) -> dict[str, WindowPool]:
    """The windows of each class.

    Args:
        segments: the segments of the split, by class.
        length: bases in a window.
        split: the split's name, for the error's text.

    Raises:
        ValueError: if a class has no segment as long as a window.
    """
    result = {name: WindowPool(own, length) for name, own in segments.items()}
    for name, pool in result.items():
        if not len(pool):
            longest = max(segments[name], key=len, default=None)
            found = f"the longest is {longest} with {len(longest)}" if longest else "it has none"
            raise ValueError(
                f"class {name!r} has no {split} sequence of {length} bases: {found}; "
                f"choose a smaller --length or other splits"
            )
    return result


def draw_window(
    pools: Sequence[WindowPool], weight: ContigWeight, *, seed: int, epoch: int, index: int
) -> tuple[int, Interval]:
    """Training sample `index` of an epoch: a class, uniformly, then a window of it (see `WindowPool.draw`).

    A pure function of its arguments. Returns the class's place in `pools` and the window.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, DRAW_STREAM, index]))
    label = int(rng.integers(len(pools)))
    return label, pools[label].draw(rng, weight)
