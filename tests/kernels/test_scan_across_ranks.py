"""The scan of one sequence over several ranks gives what one rank gives, gradients of everything included.

The Triton scan runs in its interpreter, see test_triton_interpreter.py; there this file runs again.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import pytest
import torch
from bioaudio_kernels import selective_scan
from bioaudio_kernels.packed import cut_cu_seqlens
from bioaudio_kernels.ranks import states_between
from rank_cases import PACKED, assert_same, over_ranks, packed_over_ranks, whole
from scan_cases import ScanCase
from simulated_ranks import on_ranks
from tolerances import OUTPUT_RTOL, assert_close

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

on_every_backend = pytest.mark.parametrize("backend", ["reference", "cpu"])
in_the_interpreter = pytest.mark.skipif(not INTERPRETED, reason="needs TRITON_INTERPRET=1")
outside_the_interpreter = pytest.mark.skipif(INTERPRETED, reason="does not concern Triton")
CASES = {
    "plain": ScanCase(batch=2, length=7, d_inner=3, d_state=2),
    "complex, groups": ScanCase(
        batch=2, length=6, d_inner=4, d_state=2, n_groups=2, B="grouped", complex=frozenset("ABC")
    ),
    "constant dt, B and C": ScanCase(
        batch=1, length=5, d_inner=3, d_state=2, dt="constant", B="constant", C="constant", dt_softplus=False
    ),
    "no state, skip, gate or bias": ScanCase(
        batch=1, length=5, d_inner=3, d_state=2, absent=frozenset({"D", "z", "dt_bias", "initial_state"})
    ),
}


def scan_on(backend: Any, segment: int = 8) -> Any:
    """The scan on this backend; on Triton with chunks of two steps, `segment` of them swept at a time."""
    if backend != "triton":
        return partial(selective_scan, backend=backend)
    from bioaudio_kernels.selective_scan.triton_across_ranks import selective_scan_triton_across_ranks
    from bioaudio_kernels.selective_scan.triton_config import ScanConfig

    config = ScanConfig(
        chunk=2, segment=segment, sub=2, block=32, state_unroll=2, output_unroll=2, output_warps=1
    )
    return partial(selective_scan_triton_across_ranks, config=config)


def dtype_of(backend: str) -> torch.dtype:
    return torch.float64 if backend == "reference" else torch.float32


@outside_the_interpreter
@on_every_backend
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_unequal_shards_equal_one_rank(case: ScanCase, backend: str) -> None:
    dtype = dtype_of(backend)
    edges = [0, 1, case.length - 2, case.length]
    assert_same(over_ranks(case, edges, scan_on(backend), dtype), whole(case), dtype)


@outside_the_interpreter
@on_every_backend
@pytest.mark.parametrize("cuts", PACKED.values(), ids=PACKED)
def test_packed_sequences_over_ranks_equal_one_rank(cuts: tuple[int, ...], backend: str) -> None:
    case, dtype = ScanCase(batch=1, length=12, d_inner=2, d_state=1, cuts=cuts), dtype_of(backend)
    assert_same(packed_over_ranks(case, [0, 4, 8, 12], scan_on(backend), dtype), whole(case), dtype)


@in_the_interpreter
def test_shards_of_whole_and_of_broken_chunks_in_several_segments_equal_one_rank() -> None:
    case = ScanCase(batch=2, length=3, d_inner=1, d_state=1)
    actual = over_ranks(case, [0, 2, 3], scan_on("triton", segment=1), torch.float32)
    assert_same(actual, whole(case), torch.float32)


@in_the_interpreter
def test_complex_states_over_ranks_equal_one_rank() -> None:
    case = ScanCase(batch=1, length=2, d_inner=1, d_state=1, complex=frozenset("ABC"))
    assert_same(over_ranks(case, [0, 1, 2], scan_on("triton"), torch.float32), whole(case), torch.float32)


@in_the_interpreter
@pytest.mark.parametrize("cuts", [(), (1, 3)], ids=["one sequence", "borders on and off the edge"])
def test_packed_shards_equal_one_rank(cuts: tuple[int, ...]) -> None:
    case = ScanCase(batch=1, length=5, d_inner=1, d_state=1, cuts=cuts)
    actual = packed_over_ranks(case, [0, 3, 5], scan_on("triton"), torch.float32)
    assert_same(actual, whole(case), torch.float32)


def test_states_between_shards_are_those_of_the_recurrence() -> None:
    """Plain tensors: three shards, of which the second holds a border."""
    rng = torch.Generator().manual_seed(0)
    A = -torch.rand(2, 3, generator=rng, dtype=torch.float64)
    A[0, 0] = 0
    start, *ends = torch.randn(4, 1, 2, 3, generator=rng, dtype=torch.float64)
    sigmas = torch.rand(3, 1, 2, generator=rng, dtype=torch.float64)
    sigmas[1] = torch.inf
    states = states_between(start, torch.stack(ends), sigmas, A)
    first = torch.exp(A * sigmas[0][..., None]) * start + ends[0]
    third = torch.exp(A * sigmas[2][..., None]) * ends[1] + ends[2]
    for actual, expected in zip(states, (start, first, ends[1], third), strict=True):
        assert_close(actual, expected, OUTPUT_RTOL[torch.float64], "state")


def test_borders_are_cut_at_the_edges_of_shards() -> None:
    def cut(borders: list[int], *lengths: int) -> list[list[int]]:
        return [shard.tolist() for shard in cut_cu_seqlens(torch.tensor(borders), lengths)]

    assert cut([0, 5, 8], 4, 4) == [[0, 4], [0, 1, 4]]
    assert cut([0, 4, 8], 4, 4) == [[0, 4], [0, 0, 4]]
    assert cut([0, 0, 8, 8], 4, 4) == [[0, 0, 4], [0, 4, 4]]
    with pytest.raises(ValueError, match=r"shards of \[4, 3\] steps, but the row goes from 0 to 8"):
        cut([0, 8], 4, 3)


def test_what_ranks_cannot_do_is_refused() -> None:
    tensors = ScanCase(batch=1, length=2, d_inner=1, d_state=1).tensors()
    with pytest.raises(ValueError, match="time to run forwards and steps on each; got reverse=True"):
        on_ranks(1, lambda ranks: selective_scan(*tensors, ranks=ranks, reverse=True))
    empty = ScanCase(batch=1, length=0, d_inner=1, d_state=1).tensors()
    with pytest.raises(ValueError, match=r"got an x of shape \(1, 0, 1\) on rank 0"):
        on_ranks(1, lambda ranks: selective_scan(*empty, ranks=ranks))
