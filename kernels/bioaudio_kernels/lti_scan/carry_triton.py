"""The carry over chunks on Triton: a lane is one state of one channel of one sequence."""

# No `from __future__ import annotations` here: Triton reads the kernels' annotations.

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from bioaudio_kernels.lti_scan.carry_kernels import carry_back_kernel, carry_kernel

LANES = 32
"""States of a program, which is one warp: lanes are few, and every warp runs through all chunks."""
UNROLL, UNROLL_BACK = 16, 8
"""Chunks whose loads are issued together, twice as many numbers each backwards: what the registers hold."""


def carry_triton(
    sums: Float[Tensor, "d_inner columns rows"],
    advance: Float[Tensor, "d_inner rows"],
    start: Float[Tensor, "d_inner batch rows"],
    entering: Float[Tensor, "d_inner columns rows"],
    is_complex: bool,
) -> Float[Tensor, "d_inner batch rows"]:
    """See `carry.carry`; float32; `sums` contiguous, and so each row of `entering`."""
    end = start.new_empty(start.shape)
    grid, sizes, constants = _launch(sums, start, entering, is_complex, UNROLL)
    with torch.cuda.device_of(sums):
        carry_kernel[grid](sums, advance.contiguous(), start.contiguous(), entering, end, *sizes, **constants)
    return end


def carry_back_triton(
    sums: Float[Tensor, "d_inner columns rows"],
    advance: Float[Tensor, "d_inner rows"],
    d_end: Float[Tensor, "d_inner batch rows"],
    entering: Float[Tensor, "d_inner columns rows"],
    leaving: Float[Tensor, "d_inner columns rows"],
    is_complex: bool,
) -> tuple[Float[Tensor, "d_inner batch rows"], Float[Tensor, "d_inner rows"]]:
    """See `carry.carry_back`; float32; `entering` and `leaving` parts of rows equally wide."""
    first, d_advance = (d_end.new_empty(d_end.shape) for _ in range(2))
    grid, sizes, constants = _launch(sums, d_end, entering, is_complex, UNROLL_BACK)
    with torch.cuda.device_of(sums):
        carry_back_kernel[grid](
            sums,
            advance.contiguous(),
            d_end.contiguous(),
            entering,
            leaving,
            first,
            d_advance,
            *sizes,
            **constants,
        )
    return first, d_advance.sum(1)


def _launch(
    sums: Tensor, start: Tensor, entering: Tensor, is_complex: bool, unroll: int
) -> tuple[tuple[int], tuple[int, int, int, int, int], dict[str, int]]:
    d_inner, batch, rows = start.shape
    d_state = rows // 2 if is_complex else rows
    lanes = d_inner * batch * d_state
    constants = {"COMPLEX": is_complex, "BLOCK": LANES, "UNROLL": unroll, "num_warps": 1}
    sizes = lanes, batch, sums.shape[1] // batch, d_state, entering.stride(1)
    return (triton.cdiv(lanes, LANES),), sizes, constants
