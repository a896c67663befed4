"""Between (batch, length, d_inner), as models hold sequences, and channels first, as products need them."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def to_channels_first(
    x: Float[Tensor, "batch length d_inner"], chunked: Float[Tensor, "d_inner columns T"], backend: str
) -> None:
    """Write chunks of x with time last, in the dtype of `chunked`: all chunks of all sequences."""
    _copy(_in_chunks(x, chunked.shape[2]), _like_x(chunked, x), backend)


def from_channels_first(
    chunked: Float[Tensor, "d_inner columns T"], y: Float[Tensor, "batch length d_inner"], backend: str
) -> None:
    """Write chunks to y, in its dtype."""
    _copy(_like_x(chunked, y), _in_chunks(y, chunked.shape[2]), backend)


def _in_chunks(x: Tensor, chunk: int) -> Float[Tensor, "batch chunks T d_inner"]:
    return x.unflatten(1, (-1, chunk))


def _like_x(chunked: Tensor, x: Tensor) -> Float[Tensor, "batch chunks T d_inner"]:
    return chunked.unflatten(1, (x.shape[0], -1)).permute(1, 2, 3, 0)


def _copy(source: Tensor, target: Tensor, backend: str) -> None:
    if backend == "triton":
        from bioaudio_kernels.lti_scan.layout_triton import copy_triton

        copy_triton(source, target)
    else:
        target.copy_(source)
