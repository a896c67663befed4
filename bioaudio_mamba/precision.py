"""What stays in single precision whatever the autocast dtype: SSM parameters, dt, decay, state, residual."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """`tensor` in float32, or untouched if it is float32 or float64 already."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def product_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype in which a matrix product of `tensor` runs: autocast's where that is on and may narrow it."""
    device = tensor.device.type
    if torch.is_autocast_enabled(device) and tensor.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return tensor.dtype
