"""Residual sum and its norm in torch's own operations, keeping only the sum for the backward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from bioaudio_kernels.add_norm.operator import define


def _forward(
    y: Tensor | None, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    total = residual if y is None else residual + y
    if bias is None:
        rstd = total.square().mean(-1).add_(eps).rsqrt_()
        normed = (total * rstd.unsqueeze(-1)).mul_(weight)
    else:
        affine = weight.to(total.dtype), bias.to(total.dtype)
        normed, _, rstd = torch.native_layer_norm(total, weight.shape, *affine, eps)
        rstd = rstd.squeeze(-1)
    return normed.to(dtype), residual.new_empty(0) if y is None else total, rstd


def _backward(
    d_normed: Tensor,
    d_total: Tensor | None,
    total: Tensor,
    weight: Tensor,
    has_bias: bool,
    rstd: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    scale = rstd.unsqueeze(-1)
    if has_bias:
        mean, wide = total.mean(-1, keepdim=True), weight.to(total.dtype)
        d_sum, d_weight, d_bias = torch.ops.aten.native_layer_norm_backward(
            d_normed.to(total.dtype), total, weight.shape, mean, scale, wide, wide, [True, True, True]
        )
        d_parameters = torch.stack([d_weight, d_bias])
    else:
        unit = total * scale
        d_parameters = (d_normed * unit).flatten(0, -2).sum(0, keepdim=True)
        d_unit = d_normed * weight.to(total.dtype)
        along = (d_unit * unit).mean(-1, keepdim=True)
        d_sum = d_unit.sub_(unit.mul_(along)).mul_(scale)
    if d_total is not None:
        d_sum += d_total
    return d_sum, d_sum.new_empty(0, dtype=dtype) if dtype == d_sum.dtype else d_sum.to(dtype), d_parameters


add_norm_cpu = define("add_norm_cpu", ("cpu",), _forward, _backward)
