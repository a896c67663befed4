"""Which bases an evaluation reads: the same held-out ones at every length, and those the baselines count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from bioaudio_data.interval import Interval
from bioaudio_data.windows import Windows

from bioaudio_recipes.counting import symbols_of
from bioaudio_recipes.evaluation.passage import Passage
from bioaudio_recipes.pretrain.genome_data import GenomeCorpus
from bioaudio_recipes.pretrain.packed_windows import PackedWindows

Whole = Literal["segment", "contig"]
"""Where the reading of a whole passage begins: with the segment of the split, or with its contig."""

SAMPLE_PIECE = 2**17
"""Bases of one piece where more training bases are offered than may be counted."""


class HeldOutBases:
    """The bases of one split that windows of every asked length can cover exactly.

    Each segment of the split is cut, from its start, to a multiple of the longest length; what is left over
    at its end, and segments shorter than that, are read at no length.

    Args:
        corpus: the opened genomes and their splits.
        split: name of the split.
        lengths: lengths of windows, in bases; each divides the longest.

    Raises:
        ValueError: for a length below 2 or one that does not divide the longest, a split without segments, or
            windows longer than every segment.
    """

    def __init__(self, corpus: GenomeCorpus, split: str, lengths: Sequence[int]) -> None:
        self.longest = max(lengths)
        for length in lengths:
            if length < 2 or self.longest % length:
                raise ValueError(
                    f"--lengths must be 2 or more and divide the longest, {self.longest}, so that all read "
                    f"the same bases: {length} does not"
                )
        self.stores = corpus.stores
        windows = corpus.windows(split, self.longest, "tile")
        self.regions = [
            [
                Interval(part.contigs[contig], start, end, split=split)
                for contig, start, end in zip(*map(np.ndarray.tolist, part.spans()), strict=True)
                if end > start
            ]
            for part in windows.parts
        ]
        self.split_bases = sum(len(segment) for part in windows.parts for segment in part.segments)
        """Bases of the split, N included."""

    @property
    def bases(self) -> int:
        """Bases read at each length, N included."""
        return sum(len(region) for regions in self.regions for region in regions)

    def windows(self, length: int) -> PackedWindows:
        """All bases, cut into windows of `length` side by side."""
        parts = zip(self.stores, self.regions, strict=True)
        return PackedWindows(
            self.stores, [Windows(regions, length, "tile", store.contigs) for store, regions in parts]
        )

    def passages(self, whole: Whole) -> list[Passage]:
        """The same bases without windows: each segment in one go, or each contig up to its last segment.

        With `contig`, a base is predicted from everything before it in its contig, of whatever split it is.
        """
        result = []
        for store, regions in zip(self.stores, self.regions, strict=True):
            if whole == "segment":
                result += [Passage(store, r.contig, r.start, r.end, [r]) for r in regions]
                continue
            for contig in dict.fromkeys(region.contig for region in regions):
                scored = [region for region in regions if region.contig == contig]
                result.append(Passage(store, contig, 0, max(region.end for region in scored), scored))
        return result

    def scored_symbols(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each region's symbols, and whether a model reading the longest windows predicts each.

        It does not predict the first base of a window, so counting models are not scored on it either.
        """
        for store, regions in zip(self.stores, self.regions, strict=True):
            for region in regions:
                predicted = np.arange(len(region)) % self.longest > 0
                yield symbols_of(store.tokens(region.contig, region.start, region.end)), predicted


def split_symbols(corpus: GenomeCorpus, split: str, limit: int) -> list[np.ndarray]:
    """Symbols of a split over all genomes, one array a segment; at most about `limit` bases, spread evenly.

    Raises:
        ValueError: if the split has no segment.
    """
    segments = [
        (store, segment)
        for store, splits in zip(corpus.stores, corpus.splits, strict=True)
        for segment in splits.get(split, [])
    ]
    if not segments:
        raise ValueError(
            f"counting baselines need the split {split!r}, which is empty (or --baselines false)"
        )
    kept = sample_intervals([segment for _, segment in segments], limit)
    return [
        symbols_of(store.tokens(piece.contig, piece.start, piece.end))
        for (store, _), pieces in zip(segments, kept, strict=True)
        for piece in pieces
    ]


def sample_intervals(intervals: Sequence[Interval], limit: int) -> list[list[Interval]]:
    """The pieces of each interval to keep so that about `limit` bases remain; all of it where that is enough.

    Intervals are cut into pieces of `SAMPLE_PIECE` bases, of which evenly spaced ones are kept.
    """
    total = sum(map(len, intervals))
    if total <= limit:
        return [[interval] for interval in intervals]
    kept = []
    before = 0
    for interval in intervals:
        starts = range(interval.start, interval.end, SAMPLE_PIECE)
        numbers = range(before, before + len(starts))
        before += len(starts)
        kept.append(
            [
                Interval(
                    interval.contig, start, min(start + SAMPLE_PIECE, interval.end), split=interval.split
                )
                for start, number in zip(starts, numbers, strict=True)
                if (number + 1) * limit // total > number * limit // total
            ]
        )
    return kept
