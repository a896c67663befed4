"""Scans of one sequence over simulated ranks, put together again for comparison with one rank."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from bioaudio_kernels import selective_scan
from bioaudio_kernels.packed import cut_cu_seqlens
from bioaudio_kernels.ranks import Ranks
from scan_cases import SCAN_NAMES, ScanCase, cast, gradients, random_like
from simulated_ranks import on_ranks
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, assert_close
from torch import Tensor

MOVING = ("x", "dt", "B", "C", "z")
"""Arguments that are cut in time, if they vary in it."""
PACKED = {
    "borders off the edges": (3, 4, 9),
    "borders on the edges, empty sequences": (0, 4, 4, 8, 12),
    "one sequence over all shards": (),
    "a border in the middle shard alone": (6,),
}
"""Cuts of a row of 12 steps, for shards of 4."""


def whole(case: ScanCase) -> dict[str, Tensor]:
    """y, the final state and every gradient, of one rank on the reference."""
    arguments = case.tensors()
    outputs = selective_scan(*arguments, **case.options(), backend="reference")
    return named(case, outputs, gradients(outputs, arguments, random_like(outputs)))


def named(case: ScanCase, outputs: Any, found: list[Tensor]) -> dict[str, Tensor]:
    return dict(
        zip(("y", "final state", *(f"d_{name}" for name in case.present())), (*outputs, *found), strict=True)
    )


def cut_in_time(case: ScanCase, tensors: list[Any], start: int, stop: int) -> list[Any]:
    constant = {name for name in ("dt", "B", "C") if getattr(case, name) == "constant"}
    return [
        tensor[:, start:stop] if tensor is not None and name in MOVING and name not in constant else tensor
        for name, tensor in zip(SCAN_NAMES, tensors, strict=True)
    ]


def over_ranks(case: ScanCase, edges: list[int], scan: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """The same from one shard on each rank, of a case that is not packed."""
    weights = random_like(selective_scan(*case.tensors(), **case.options(), backend="reference"))

    def run(ranks: Ranks) -> dict[str, Tensor]:
        start, stop = edges[ranks.rank], edges[ranks.rank + 1]
        shard = cast(cut_in_time(case, case.tensors(), start, stop), dtype)
        outputs = scan(*shard, ranks=ranks, cu_seqlens=None, dt_softplus=case.dt_softplus)
        found = gradients(outputs, shard, [weights[0][:, start:stop], weights[1]])
        return named(case, outputs, found)

    parts = on_ranks(len(edges) - 1, run)
    joined = {}
    for name in parts[0]:
        every = [part[name] for part in parts]
        argument = name.removeprefix("d_")
        moves = argument in MOVING and getattr(case, argument, "varying") != "constant"
        if name == "y" or moves:
            joined[name] = torch.cat(every, 1)
        elif argument in ("final state", "initial_state"):
            assert all(torch.equal(tensor, every[0]) for tensor in every), f"{name} differs between ranks"
            joined[name] = every[0]
        else:
            joined[name] = torch.stack(every).sum(0)
    return joined


def packed_over_ranks(case: ScanCase, edges: list[int], scan: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """The same of a packed case; each sequence's states are those of the rank where it begins and ends."""
    borders = case.options()["cu_seqlens"]
    shards = cut_cu_seqlens(borders, [stop - start for start, stop in pairwise(edges)])
    weights = random_like(selective_scan(*case.tensors(), **case.options(), backend="reference"))

    def run(ranks: Ranks) -> dict[str, Tensor]:
        mine = shards[ranks.rank]
        row = sum(shard.numel() - 2 for shard in shards[: ranks.rank])
        rows = slice(row, row + mine.numel() - 1)
        start, stop = edges[ranks.rank], edges[ranks.rank + 1]
        *others, initial_state = cut_in_time(case, case.tensors(), start, stop)
        shard = cast([*others, initial_state[rows]], dtype)
        outputs = scan(*shard, ranks=ranks, cu_seqlens=mine, dt_softplus=case.dt_softplus)
        d_final = weights[1][rows].clone()
        if ranks.rank < ranks.size - 1:
            d_final[-1] = 0  # it does not end here
        found = named(case, outputs, gradients(outputs, shard, [weights[0][:, start:stop], d_final]))
        for name in ("final state", "d_initial_state"):
            everywhere = found[name].new_zeros(borders.numel() - 1, *found[name].shape[1:])
            everywhere[rows] = found[name]
            if name == "final state" and ranks.rank < ranks.size - 1:
                everywhere[rows.stop - 1] = 0
            found[name] = everywhere
        return found

    parts = on_ranks(len(edges) - 1, run)
    moving = ("y", *(f"d_{name}" for name in MOVING))
    return {
        name: torch.cat([p[name] for p in parts], 1)
        if name in moving
        else torch.stack([p[name] for p in parts]).sum(0)
        for name in parts[0]
    }


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype) -> None:
    for name, tensor in expected.items():
        table = GRADIENT_RTOL if name.startswith("d_") else OUTPUT_RTOL
        assert_close(actual[name], tensor, table[dtype], name)
