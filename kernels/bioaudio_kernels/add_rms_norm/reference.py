"""Residual sum and RMS norm as their definition says."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def add_rms_norm_reference(
    y: Float[Tensor, "*batch d_model"] | None,
    residual: Float[Tensor, "*batch d_model"],
    weight: Float[Tensor, " d_model"],
    eps: float,
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "*batch d_model"], Float[Tensor, "*batch d_model"]]:
    """See `add_rms_norm`. Computed in the dtype of `residual`; differentiable any number of times."""
    total = residual if y is None else residual + y
    scale = torch.rsqrt(total.square().mean(-1, keepdim=True) + eps)
    return (total * scale * weight.to(total.dtype)).to(dtype), total
