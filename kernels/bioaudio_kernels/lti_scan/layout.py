"""Between (batch, length, d_inner), as models hold sequences, and channels first, as products need them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def to_channels_first(
    x: Float[Tensor, "batch length d_inner"], chunk: int, dtype: torch.dtype, backend: str
) -> Float[Tensor, "d_inner columns T"]:
    """Chunks of x with time last, in `dtype`; columns are all chunks of all sequences."""
    batch, length, d_inner = x.shape
    chunked = torch.empty(d_inner, batch * (length // chunk), chunk, dtype=dtype, device=x.device)
    _copy(x, chunked.view(d_inner, batch, length).permute(1, 2, 0), backend)
    return chunked


def from_channels_first(
    chunked: Float[Tensor, "d_inner columns T"], y: Float[Tensor, "batch length d_inner"], backend: str
) -> None:
    """Write chunks to y, in its dtype."""
    batch, length, d_inner = y.shape
    _copy(chunked.view(d_inner, batch, length).permute(1, 2, 0), y, backend)


def _copy(source: Tensor, target: Tensor, backend: str) -> None:
    if backend == "triton":
        from bioaudio_kernels.lti_scan.layout_triton import copy_triton

        copy_triton(source, target)
    else:
        target.copy_(source)
