"""The sum of the residual stream and its RMS norm in one pass: what lies between two blocks of a network."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bioaudio_kernels.add_rms_norm.reference import add_rms_norm_reference
from bioaudio_kernels.backend import Backend, resolve_backend
from bioaudio_kernels.inputs import check_inputs
from bioaudio_kernels.shapes import check_shapes

__all__ = ["add_rms_norm"]

OP = "add_rms_norm"


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
    check_inputs(OP, {"residual": residual, "y": y, "weight": weight})
    if residual.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{OP}: residual is {residual.dtype}; the stream is kept in float32 or float64")
    if y is not None and y.shape != residual.shape:
        raise ValueError(f"{OP}: y has shape {tuple(y.shape)}, expected {tuple(residual.shape)}")
    check_shapes(OP, {"weight": "d_model"}, [weight])
    if residual.shape[-1:] != weight.shape:
        raise ValueError(f"{OP}: residual has shape {tuple(residual.shape)}, weight {tuple(weight.shape)}")
    dtype = weight.dtype if dtype is None else dtype
    chosen = resolve_backend(OP, backend, residual, y, weight)
    if chosen == "triton":
        from bioaudio_kernels.add_rms_norm.triton_op import add_rms_norm_triton

        return add_rms_norm_triton(y, residual, weight, eps, dtype)
    if chosen == "cpu":
        from bioaudio_kernels.add_rms_norm.cpu import add_rms_norm_cpu

        return add_rms_norm_cpu(y, residual, weight, eps, dtype)
    return add_rms_norm_reference(y, residual, weight, eps, dtype)
