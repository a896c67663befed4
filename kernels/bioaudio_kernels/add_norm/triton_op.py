"""Residual sum and its norm on Triton."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bioaudio_kernels.add_norm.operator import define, rows_of
from bioaudio_kernels.add_norm.triton_kernels import backward_kernel, forward_kernel
from bioaudio_kernels.integers import ceil_div, next_power_of_2
from bioaudio_kernels.triton_sums import sum_over_rows

FORWARD_ELEMENTS, BACKWARD_ELEMENTS = 1024, 512
"""Of the rows that a warp holds at a time; the backward pass holds more of each."""
PROGRAMS = 4096
"""Of a backward pass at most: some waves on an H100."""


class NormConfig(NamedTuple):
    """How the work is cut: by fixed rules, so that results repeat."""

    rows: int
    """Rows that a program holds at a time."""
    block: int
    """Lanes of a row."""
    num_warps: int
    """One, unless a row is longer than a warp's registers allow."""


def choose_config(width: int, elements: int) -> NormConfig:
    """For rows of `width`, with `elements` in the registers of a warp."""
    block = next_power_of_2(width)
    return NormConfig(max(1, elements // block), block, min(8, max(1, block // elements)))


def _forward(
    y: Tensor | None, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    width, rows = weight.numel(), rows_of(residual)
    config = choose_config(width, FORWARD_ELEMENTS)
    normed = torch.empty(residual.shape, dtype=dtype, device=residual.device)
    total = residual.new_empty(0 if y is None else residual.shape)
    rstd = residual.new_empty(residual.shape[:-1])
    with torch.cuda.device_of(residual):
        forward_kernel[(ceil_div(rows, config.rows),)](
            None if y is None else y.contiguous(), residual.contiguous(), weight.contiguous(),
            None if bias is None else bias.contiguous(), normed, None if y is None else total, rstd,
            rows, width, eps, ROWS=config.rows, BLOCK=config.block, num_warps=config.num_warps,
        )  # fmt: skip
    return normed, total, rstd


def _backward(
    d_normed: Tensor,
    d_total: Tensor | None,
    total: Tensor,
    weight: Tensor,
    has_bias: bool,
    rstd: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    width, rows = weight.numel(), rows_of(total)
    config = choose_config(width, BACKWARD_ELEMENTS)
    steps = ceil_div(rows, config.rows * PROGRAMS)
    programs = ceil_div(rows, config.rows * steps)
    d_residual = torch.empty(total.shape, dtype=total.dtype, device=total.device)
    same = dtype == total.dtype
    d_y = torch.empty(0 if same else total.shape, dtype=dtype, device=total.device)
    d_parameters = torch.empty(programs, 1 + has_bias, width, dtype=torch.float32, device=total.device)
    with torch.cuda.device_of(total):
        backward_kernel[(programs,)](
            d_normed.contiguous(), None if d_total is None else d_total.contiguous(), total.contiguous(),
            weight.contiguous(), rstd, d_residual, None if same else d_y, d_parameters, rows, width, steps,
            CENTRED=has_bias, ROWS=config.rows, BLOCK=config.block, num_warps=config.num_warps,
        )  # fmt: skip
    return d_residual, d_y, sum_over_rows(d_parameters)


_call = define("add_norm", ("cpu", "cuda"), _forward, _backward)


def add_norm_triton(
    y: Tensor | None, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See `add_norm_reference`: a float32 residual, y and the result in float32, bfloat16 or float16."""
    if residual.numel() == 0:
        return residual.to(dtype, copy=True), residual
    return _call(y, residual, weight, bias, eps, dtype)
