"""Residual sum and RMS norm in torch's own operations, keeping only the sum for the backward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from bioaudio_kernels.add_rms_norm.operator import define


def _forward(
    y: Tensor | None, residual: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    total = residual if y is None else residual + y
    rstd = total.square().mean(-1).add_(eps).rsqrt_()
    normed = (total * rstd.unsqueeze(-1)).mul_(weight)
    return normed.to(dtype), residual.new_empty(0) if y is None else total, rstd


def _backward(
    d_normed: Tensor,
    d_total: Tensor | None,
    total: Tensor,
    weight: Tensor,
    rstd: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    unit = total * rstd.unsqueeze(-1)
    d_weight = (d_normed * unit).flatten(0, -2).sum(0)
    d_unit = d_normed * weight.to(total.dtype)
    along = (d_unit * unit).mean(-1, keepdim=True)
    d_sum = d_unit.sub_(unit.mul_(along)).mul_(rstd.unsqueeze(-1))
    if d_total is not None:
        d_sum += d_total
    return d_sum, d_sum.new_empty(0, dtype=dtype) if dtype == d_sum.dtype else d_sum.to(dtype), d_weight


add_rms_norm_cpu = define("add_rms_norm_cpu", ("cpu",), _forward, _backward)
