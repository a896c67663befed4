"""Torch tensors as the flat float32 arrays that compiled kernels read."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def flat(tensor: Tensor) -> np.ndarray:
    """The elements in order, float32; shares the memory of a contiguous float32 tensor."""
    return tensor.detach().to(torch.float32).contiguous().view(-1).numpy()


def empty_float32(*shape: int) -> Tensor:
    """Memory for a kernel's result, float32 whatever torch's default dtype is: `flat` of it is a view."""
    return torch.empty(shape, dtype=torch.float32)


def flat_rows(tensor: Tensor) -> tuple[np.ndarray, tuple[int, int]]:
    """A (batch, length, channels) tensor as its memory, and its batch and length strides in elements.

    Half of a projection's output, for example, is read in place; only a tensor whose channels are not
    neighbours in memory, or that is not float32, is copied.
    """
    rows = tensor.detach().to(torch.float32)
    if rows.stride(2) != 1 and rows.shape[2] > 1:
        rows = rows.contiguous()
    if rows.numel() == 0:
        return np.empty(0, np.float32), (0, 0)
    batch_stride, length_stride, _ = rows.stride()
    span = (rows.shape[0] - 1) * batch_stride + (rows.shape[1] - 1) * length_stride + rows.shape[2]
    return rows.as_strided((span,), (1,)).numpy(), (batch_stride, length_stride)
