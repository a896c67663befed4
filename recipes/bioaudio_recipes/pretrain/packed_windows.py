"""Reading many windows of several genomes at once, one byte a base: token id and soft-mask bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from bioaudio_data.genome import GenomeStore
from bioaudio_data.vocabulary import DNA
from bioaudio_data.windows import Windows
from numpy.typing import NDArray


class PackedWindows:
    """The windows of one length over several genomes, counted through from the first genome to the last.

    Args:
        stores: the genomes.
        windows: the windows of each, all of one length.
    """

    def __init__(self, stores: Sequence[GenomeStore], windows: Sequence[Windows]) -> None:
        self.stores = tuple(stores)
        self.parts = tuple(windows)
        self.length = windows[0].length
        self._ends = np.cumsum([len(part) for part in windows])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(
        self,
        indices: NDArray[np.integer],
        shifts: NDArray[np.integer] | None = None,
        reverse_complement: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.uint8]:
        """Packed bases, uint8 (batch, length), of the windows numbered `indices`.

        Args:
            indices: (batch,) window numbers.
            shifts: (batch,) bases by which each window is moved; what lies outside its contig reads as N.
            reverse_complement: (batch,) whether each window is read from the opposite strand.
        """
        batch = np.empty((len(indices), self.length), np.uint8)
        genome = np.searchsorted(self._ends, indices, side="right")
        for number in np.unique(genome):
            rows = np.flatnonzero(genome == number)
            part, store = self.parts[number], self.stores[number]
            contigs, starts = part.locate(indices[rows] - (self._ends[number] - len(part)))
            if shifts is not None:
                starts = starts + shifts[rows]
            for row, contig, start in zip(rows.tolist(), contigs.tolist(), starts.tolist(), strict=True):
                _read_padded(store, part.contigs[contig], start, batch[row])
        if reverse_complement is not None:
            flipped = np.flatnonzero(reverse_complement)
            batch[flipped] = DNA.reverse_complement(batch[flipped])
        return batch


def _read_padded(store: GenomeStore, contig: str, start: int, row: NDArray[np.uint8]) -> None:
    """Fill `row` with the bases from `start` on; where the contig has none, N."""
    inside = slice(max(0, -start), max(0, min(len(row), store.contigs[contig] - start)))
    if inside.stop - inside.start < len(row):
        row.fill(DNA.N)
    if inside.start < inside.stop:
        row[inside] = store.packed(contig, start + inside.start, start + inside.stop)
