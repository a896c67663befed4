"""The tables of a chunk and the gradients of the system on Triton: one launch each."""

from __future__ import annotations

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from bioaudio_kernels.integers import ceil_div, next_power_of_2
from bioaudio_kernels.lti_scan.complex_states import as_pairs
from bioaudio_kernels.lti_scan.tables import ChunkTables, TableGradients
from bioaudio_kernels.lti_scan.tables_kernels import tables_back_kernel, tables_kernel

TILE = 1024
"""Powers that a program holds at a time."""
ROWS = 32
"""Rows of a Toeplitz matrix that a program holds at a time."""


def chunk_tables_triton(
    log_decay: Inexact[Tensor, "d_inner d_state"],
    B: Inexact[Tensor, "d_inner d_state"],
    C: Inexact[Tensor, "d_inner d_state"],
    D: Float[Tensor, " d_inner"] | None,
    chunk: int,
    rest: int,
) -> ChunkTables:
    """See `tables.chunk_tables`; float32 or complex64."""
    system = [as_pairs(states.contiguous()) for states in (log_decay, B, C)]
    d_inner, rows = system[0].shape
    onward, back = (_empty(log_decay, d_inner, rows + chunk, chunk) for _ in range(2))
    advance, advance_rest = (_empty(log_decay, d_inner, rows) for _ in range(2))
    constants = _constants(log_decay)
    grid = ceil_div(chunk + 1, constants["STEPS"]), d_inner
    with torch.cuda.device_of(log_decay):
        tables_kernel[grid](
            *system, None if D is None else D.contiguous(),
            onward, back, advance, advance_rest, log_decay.shape[1], chunk, rest, **constants,
        )  # fmt: skip
    return ChunkTables(onward, back, advance, advance_rest)


def chunk_tables_backward_triton(
    gradients: TableGradients,
    d_advance_rest: Float[Tensor, "d_inner rows"] | None,
    log_decay: Inexact[Tensor, "d_inner d_state"],
    B: Inexact[Tensor, "d_inner d_state"],
    C: Inexact[Tensor, "d_inner d_state"],
    rest: int,
) -> tuple[
    Inexact[Tensor, "d_inner d_state"],
    Inexact[Tensor, "d_inner d_state"],
    Inexact[Tensor, "d_inner d_state"],
    Float[Tensor, " d_inner"],
]:
    """See `tables.chunk_tables_backward`; the gradients of tables contiguous."""
    d_inner, d_state = log_decay.shape
    system = [as_pairs(states.contiguous()) for states in (log_decay, B, C)]
    results = [log_decay.new_empty(log_decay.shape) for _ in range(3)]
    d_D = _empty(log_decay, d_inner)
    with torch.cuda.device_of(log_decay):
        tables_back_kernel[(d_inner,)](
            *gradients, d_advance_rest, *system, *map(as_pairs, results), d_D,
            d_state, gradients.inject.shape[2], rest, **_constants(log_decay),
        )  # fmt: skip
    log_decay_slope, d_B, d_C = results
    return log_decay_slope, d_B, d_C, d_D


def _empty(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=like.dtype.to_real(), device=like.device)


def _constants(log_decay: Tensor) -> dict[str, int]:
    block = next_power_of_2(log_decay.shape[1])
    steps = max(1, TILE // block)
    return {"COMPLEX": log_decay.is_complex(), "BLOCK": block, "STEPS": steps, "ROWS": ROWS, "num_warps": 8}
