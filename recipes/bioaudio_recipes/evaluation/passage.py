"""A passage: a stretch of a contig that is read in one go, of which all bases or some are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from bioaudio_data.genome import GenomeStore
from bioaudio_data.interval import Interval
from numpy.typing import NDArray


@dataclass(frozen=True)
class Passage:
    """Bases `start` to `end - 1` of a contig; `len` is their number."""

    store: GenomeStore
    contig: str
    start: int
    end: int
    scored: Sequence[Interval]
    """What counts, within the passage."""

    def __len__(self) -> int:
        return self.end - self.start

    def read(self, start: int, end: int) -> NDArray[np.uint8]:
        """Packed bases `start` to `end - 1` of the passage, straight from disk: uint8 (1, end - start)."""
        return self.store.packed(self.contig, self.start + start, self.start + end)[None]

    def is_scored(self, start: int, length: int) -> NDArray[np.bool_]:
        """Whether each of the `length` bases from the passage's base `start` on counts: (length,)."""
        first = self.start + start
        result = np.zeros(length, np.bool_)
        for interval in self.scored:
            result[max(0, interval.start - first) : max(0, interval.end - first)] = True
        return result
