"""Which chunks a batch is cut into: the same number for every sequence, or a table where they are packed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bioaudio_kernels.integers import ceil_div


class Chunks(NamedTuple):
    """Chunks of all sequences, numbered through; those of one sequence lie next to each other."""

    steps: int
    """Of a chunk; the last of a sequence may have fewer."""
    total: int
    """Of all sequences together; of packed ones an upper bound, and those past the real number are empty."""
    sequences: int
    per_sequence: int
    """0 for packed sequences, which have a table."""
    table: Tensor | None
    """(count, 4) int64: first step, number of steps, sequence, and 1 for the last chunk of a sequence."""
    first: Tensor | None
    """(sequences + 1,) int64: the first chunk of each sequence."""

    def last(self) -> tuple[Chunks, Tensor]:
        """The last chunk of each packed sequence as chunks of their own, and their numbers."""
        assert self.first is not None
        assert self.table is not None
        rows = self.first[1:] - 1
        return self._replace(total=self.sequences, table=self.table[rows], first=None), rows


def cut_into_chunks(
    batch: int,
    length: int,
    steps: int,
    cu_seqlens: Tensor | None,
    reverse: bool,
    device: torch.device,
    *,
    all_full: bool = False,
) -> Chunks:
    """Cut sequences into chunks without waiting for the GPU: an empty sequence gets an empty chunk.

    With `all_full` all chunks of packed sequences have `steps` steps but the last, which may be empty.
    """
    if cu_seqlens is None:
        n = ceil_div(length, steps)
        return Chunks(steps, batch * n, batch, n, None, None)
    borders = cu_seqlens.to(device, torch.int64)
    lengths = borders.diff()
    sequences = lengths.shape[0]
    per_sequence = lengths // steps + 1 if all_full else ((lengths + steps - 1) // steps).clamp(min=1)
    first = torch.cat([per_sequence.new_zeros(1), per_sequence.cumsum(0)])
    chunk = torch.arange(length // steps + sequences, device=device)
    found = torch.searchsorted(first, chunk, right=True) - 1
    sequence = found.clamp(max=sequences - 1)
    start = (chunk - first[sequence]) * steps
    count = (lengths[sequence] - start).clamp(0, steps)
    step = borders[sequence + 1] - 1 - start if reverse else borders[sequence] + start
    last = chunk == first[sequence + 1] - 1
    # The first step of an empty chunk is never read; it only has to be one that exists.
    table = torch.stack([step.clamp(0, length - 1), count, sequence, last.long()], 1)
    return Chunks(steps, chunk.shape[0], sequences, 0, table, first)
