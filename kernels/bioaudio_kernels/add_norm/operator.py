"""Residual sum and its norm as a PyTorch operator, whatever computes it: one node of a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bioaudio_kernels.differentiable import register_autograd

Call = Callable[[Tensor | None, Tensor, Tensor, Tensor | None, float, torch.dtype], tuple[Tensor, Tensor]]

_ARGUMENTS = "Tensor? y, Tensor residual, Tensor weight, Tensor? bias, float eps, ScalarType dtype"
_GRADIENTS = (
    "Tensor d_normed, Tensor? d_total, Tensor total, Tensor weight, bool has_bias, Tensor rstd, "
    "ScalarType dtype"
)


def define(
    name: str,
    devices: tuple[str, ...],
    forward: Callable[..., tuple[Tensor, Tensor, Tensor]],
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]],
) -> Call:
    """Register `bioaudio::NAME` and its backward pass, and give the function that calls it.

    Args:
        name: of the operator.
        devices: where it runs.
        forward: (y, residual, weight, bias, eps, dtype) to the normed sum, the sum (empty without y) and
            1 / sqrt(mean square + eps) of each row. With a bias it is the layer norm, else the RMS norm.
        backward: (d_normed, d_total, total, weight, has_bias, rstd, dtype of y) to the gradients of the
            residual, of y (empty if it would be the same tensor) and, in float32, of the weight and the bias
            as rows of one tensor.
    """
    torch.library.define(f"bioaudio::{name}", f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor)")
    torch.library.define(f"bioaudio::{name}_backward", f"({_GRADIENTS}) -> (Tensor, Tensor, Tensor)")
    op, backward_op = (getattr(torch.ops.bioaudio, each).default for each in (name, f"{name}_backward"))
    torch.library.impl(f"bioaudio::{name}", devices)(forward)
    torch.library.impl(f"bioaudio::{name}_backward", devices)(backward)
    torch.library.register_fake(op)(_fake_forward)
    torch.library.register_fake(backward_op)(_fake_backward)

    def differentiate(ctx: Any, d_normed: Tensor | None, d_total: Tensor | None, _: Any) -> tuple[Any, ...]:
        total, weight, rstd = ctx.saved_tensors
        if d_normed is None:
            assert d_total is not None
            d_y = None if ctx.y_dtype is None else d_total.to(ctx.y_dtype)
            return d_y, d_total, None, None, None, None
        dtype = total.dtype if ctx.y_dtype is None else ctx.y_dtype
        arguments = d_normed, d_total, total, weight, ctx.has_bias, rstd, dtype
        d_residual, d_y, d_parameters = backward_op(*arguments)
        if dtype == total.dtype:
            d_y = d_residual
        d_weight, d_bias = (*d_parameters.to(weight.dtype), None)[:2]
        return None if ctx.y_dtype is None else d_y, d_residual, d_weight, d_bias, None, None

    register_autograd(op, differentiate, _setup_context)

    def call(
        y: Tensor | None,
        residual: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        eps: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        normed, total, _ = op(y, residual, weight, bias, eps, dtype)
        return normed, residual if y is None else total

    return call


def rows_of(tensor: Tensor) -> int:
    """Vectors that a (*batch, d_model) tensor holds."""
    return tensor.numel() // max(1, tensor.shape[-1])


def _fake_forward(
    y: Tensor | None, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    total = residual.new_empty(0 if y is None else residual.shape)
    return residual.new_empty(residual.shape, dtype=dtype), total, residual.new_empty(residual.shape[:-1])


def _fake_backward(
    d_normed: Tensor,
    d_total: Tensor | None,
    total: Tensor,
    weight: Tensor,
    has_bias: bool,
    rstd: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    d_y = total.new_empty(0 if dtype == total.dtype else total.shape, dtype=dtype)
    return total.new_empty(total.shape), d_y, total.new_empty(1 + has_bias, *weight.shape)


def _setup_context(ctx: Any, arguments: tuple[Any, ...], results: tuple[Tensor, ...]) -> None:
    y, residual, weight, bias, *_ = arguments
    ctx.has_bias = bias is not None
    ctx.y_dtype = None if y is None else y.dtype
    ctx.save_for_backward(residual if y is None else results[1], weight, results[2])
    ctx.mark_non_differentiable(results[2])
    ctx.set_materialize_grads(False)
