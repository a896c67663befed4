"""Sequences of any lengths packed one after another in one row: the check of their borders, and their cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

# Tensors found good: the length they fit and the version they had. On a GPU, reading them again would wait.
_checked = WeakTensorKeyDictionary()


def check_cu_seqlens(op: str, cu_seqlens: Tensor, batch: int, length: int) -> None:
    """Check the borders of packed sequences: sequence i is steps cu_seqlens[i] to cu_seqlens[i + 1] - 1.

    A tensor is read once and then remembered, until it is written to. Its values are not read while
    torch.compile traces.

    Args:
        op: name of the op, for messages.
        cu_seqlens: (n_sequences + 1,), int32 or int64, from 0 to `length`, non-decreasing; on any device.
        batch: rows of the packed tensors, which must be one.
        length: steps of the packed tensors.

    Raises:
        ValueError: saying what cu_seqlens is and what is allowed.
    """
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        dtype = str(cu_seqlens.dtype).removeprefix("torch.")
        raise ValueError(f"{op}: cu_seqlens is {dtype}, allowed are int32 and int64")
    if cu_seqlens.ndim != 1 or cu_seqlens.numel() == 0:
        raise ValueError(f"{op}: cu_seqlens has shape {tuple(cu_seqlens.shape)}, expected (n_sequences + 1,)")
    if batch != 1:
        raise ValueError(
            f"{op}: cu_seqlens packs sequences into one row, but the batch is {batch}; allowed is 1"
        )
    if torch.compiler.is_compiling():
        return
    if cu_seqlens.is_inference():  # has no version to remember
        _check_values(op, cu_seqlens.tolist(), length)
    elif _checked.get(cu_seqlens) != (length, cu_seqlens._version):
        _check_values(op, cu_seqlens.tolist(), length)
        _checked[cu_seqlens] = (length, cu_seqlens._version)


def cut_cu_seqlens(
    cu_seqlens: Int[Tensor, " borders"], lengths: Sequence[int]
) -> list[Int[Tensor, " _borders"]]:
    """The borders in each shard of a packed row that is cut into consecutive shards.

    Sequence 0 of every shard but the first is what the shard has of the last sequence of the shard before, at
    times nothing: a border on the edge between two shards makes an empty sequence at the start of the second.
    So sequence i of a shard is sequence i + (the number of borders inside the shards before) of the row.

    Args:
        cu_seqlens: borders of the row, from 0 to its length.
        lengths: of the shards, in order.

    Raises:
        ValueError: if the lengths do not add up to that of the row.
    """
    first, *inside, end = cu_seqlens.tolist()
    if first != 0 or sum(lengths) != end:
        raise ValueError(
            f"cut_cu_seqlens: shards of {list(lengths)} steps, but the row goes from {first} to {end}"
        )
    shards = []
    for start, stop in pairwise(accumulate(lengths, initial=0)):
        mine = [border - start for border in inside if start <= border < stop or border == stop == end]
        shards.append(cu_seqlens.new_tensor([0, *mine, stop - start]))
    return shards


def _check_values(op: str, borders: list[int], length: int) -> None:
    if (borders[0], borders[-1]) != (0, length):
        raise ValueError(
            f"{op}: cu_seqlens goes from {borders[0]} to {borders[-1]}, "
            f"allowed is from 0 to the length {length}"
        )
    for i, (start, stop) in enumerate(pairwise(borders)):
        if stop < start:
            raise ValueError(
                f"{op}: cu_seqlens decreases: sequence {i} has length {stop - start}, allowed is 0 or more"
            )
