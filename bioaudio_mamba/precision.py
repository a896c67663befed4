"""What stays in single precision whatever the autocast dtype: SSM parameters, dt, decay, state, residual."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """`tensor` in float32, or untouched if it is float32 or float64 already."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
