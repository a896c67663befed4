"""The sum of the residual stream and its norm in one pass: what lies between two blocks of a network."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bioaudio_kernels.add_norm.reference import add_norm_reference
from bioaudio_kernels.backend import Backend, resolve_backend
from bioaudio_kernels.inputs import check_inputs
from bioaudio_kernels.shapes import check_shapes

__all__ = ["add_layer_norm", "add_rms_norm"]


def add_rms_norm(
    y: Float[Tensor, "*batch d_model"] | None,
    residual: Float[Tensor, "*batch d_model"],
    weight: Float[Tensor, " d_model"],
    eps: float = 1e-5,
    *,
    dtype: torch.dtype | None = None,
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "*batch d_model"], Float[Tensor, "*batch d_model"]]:
    """Add a block's output to the residual stream, and normalise the sum (arXiv 1910.07467).

        s      = residual + y
        normed = s / sqrt(mean(s²) + eps) * weight, the mean over the last axis

    Computed in float32 (float64 on the reference) whatever the dtypes of y and of the result. The backward
    pass needs s and one number a row. Gradients reach every tensor argument from both results.

    Args:
        y: the block's output, (*batch, d_model); None adds nothing.
        residual: the stream so far, (*batch, d_model), float32 or float64.
        weight: (d_model,).
        eps: added to the mean square.
        dtype: of the normed result; None is that of `weight`. A reader in half precision gets what it needs
            without a float32 copy in memory.
        backend: "auto", "reference", "cpu" or "triton"; see `resolve_backend`.

    Returns:
        normed, in `dtype`, and s, in the dtype of `residual` (without y, `residual` itself).

    Raises:
        ValueError: if shapes, dtypes or devices do not fit, or the backend cannot be given.
    """
    return _add_norm("add_rms_norm", y, residual, weight, None, eps, dtype, backend)


def add_layer_norm(
    y: Float[Tensor, "*batch d_model"] | None,
    residual: Float[Tensor, "*batch d_model"],
    weight: Float[Tensor, " d_model"],
    bias: Float[Tensor, " d_model"],
    eps: float = 1e-5,
    *,
    dtype: torch.dtype | None = None,
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "*batch d_model"], Float[Tensor, "*batch d_model"]]:
    """Add a block's output to the residual stream, and normalise the sum (arXiv 1607.06450).

        s      = residual + y
        normed = (s - mean(s)) / sqrt(var(s) + eps) * weight + bias, over the last axis

    Arguments, results and errors are those of `add_rms_norm`.
    """
    return _add_norm("add_layer_norm", y, residual, weight, bias, eps, dtype, backend)


def _add_norm(
    op: str,
    y: Tensor | None,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    dtype: torch.dtype | None,
    backend: Backend,
) -> tuple[Tensor, Tensor]:
    check_inputs(op, {"residual": residual, "y": y, "weight": weight, "bias": bias})
    if residual.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{op}: residual is {residual.dtype}; the stream is kept in float32 or float64")
    if y is not None and y.shape != residual.shape:
        raise ValueError(f"{op}: y has shape {tuple(y.shape)}, expected {tuple(residual.shape)}")
    check_shapes(op, {"weight": "d_model", "bias": "d_model"}, [weight, bias])
    if residual.shape[-1:] != weight.shape:
        raise ValueError(f"{op}: residual has shape {tuple(residual.shape)}, weight {tuple(weight.shape)}")
    dtype = weight.dtype if dtype is None else dtype
    chosen = resolve_backend(op, backend, residual, y, weight, bias)
    arguments = y, residual, weight, bias, eps, dtype
    if chosen == "triton":
        from bioaudio_kernels.add_norm.triton_op import add_norm_triton

        return add_norm_triton(*arguments)
    if chosen == "cpu":
        from bioaudio_kernels.add_norm.cpu import add_norm_cpu

        return add_norm_cpu(*arguments)
    return add_norm_reference(*arguments)
