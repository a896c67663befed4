"""Residual sum and its norm as their definition says."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def add_norm_reference(
    y: Float[Tensor, "*batch d_model"] | None,
    residual: Float[Tensor, "*batch d_model"],
    weight: Float[Tensor, " d_model"],
    bias: Float[Tensor, " d_model"] | None,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "*batch d_model"], Float[Tensor, "*batch d_model"]]:
    """See `add_layer_norm`, and `add_rms_norm`, which has no bias and takes no mean off.

    Computed in the dtype of `residual`; differentiable any number of times.
    """
    total = residual if y is None else residual + y
    centred = total if bias is None else total - total.mean(-1, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    normed = centred * scale * weight.to(total.dtype)
    return (normed if bias is None else normed + bias.to(total.dtype)).to(dtype), total
