"""The causal convolution of every channel by a kernel as long as the sequence, by FFT, as torch operators."""

# No `from __future__ import annotations` here: torch reads the operators' schemas from real annotations.
from collections.abc import Iterator
from typing import Any

import scipy.fft
import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 1 << 24
"""Elements of x whose spectra are held at once."""


def long_convolution(
    x: Float[Tensor, "batch length d_inner"],
    kernel: Float[Tensor, "d_inner length"],
    offset: Float[Tensor, "d_inner batch length"] | None,
) -> Float[Tensor, "batch length d_inner"]:
    """y_t = offset_t + sum_{s <= t} kernel[t - s] x_s, in the kernel's precision; dtype of x."""
    return _convolve(x, kernel, offset)


@torch.library.custom_op("bioaudio::long_convolution", mutates_args=())
def _convolve(x: Tensor, kernel: Tensor, offset: Tensor | None) -> Tensor:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    length, size = x.shape[1], _fft_size(x.shape[1])
    for channels in _blocks(x):
        spectrum = torch.fft.rfft(_channels_first(x, channels, kernel.dtype), size)
        spectrum *= torch.fft.rfft(kernel[channels], size).unsqueeze(1)
        result = torch.fft.irfft(spectrum, size)[..., :length]
        if offset is not None:
            result += offset[channels]
        y[..., channels] = result.permute(1, 2, 0)
    return y


@_convolve.register_fake
def _(x, kernel, offset):
    return x.new_empty(x.shape)


@torch.library.custom_op("bioaudio::long_convolution_backward", mutates_args=())
def _convolve_backward(dy: Tensor, x: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the kernel."""
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    dkernel = torch.empty_like(kernel, memory_format=torch.contiguous_format)
    length, size = x.shape[1], _fft_size(x.shape[1])
    for channels in _blocks(x):
        slopes = torch.fft.rfft(_channels_first(dy, channels, kernel.dtype), size)
        inputs = torch.fft.rfft(_channels_first(x, channels, kernel.dtype), size)
        products = (inputs.conj() * slopes).sum(1)
        dkernel[channels] = torch.fft.irfft(products, size)[:, :length]
        slopes *= torch.fft.rfft(kernel[channels], size).conj().unsqueeze(1)
        dx[..., channels] = torch.fft.irfft(slopes, size)[..., :length].permute(1, 2, 0)
    return dx, dkernel


@_convolve_backward.register_fake
def _(dy, x, kernel):
    return x.new_empty(x.shape), kernel.new_empty(kernel.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, kernel, offset = inputs
    ctx.save_for_backward(x, kernel)
    ctx.offset_dtype = None if offset is None else offset.dtype


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    x, kernel = ctx.saved_tensors
    doffset = None if ctx.offset_dtype is None else dy.permute(2, 0, 1).to(ctx.offset_dtype)
    return *_convolve_backward(dy, x, kernel), doffset


_convolve.register_autograd(_differentiate, setup_context=_setup_context)


def _fft_size(length: int) -> int:
    """At least 2 length - 1, so that nothing wraps around, and without large prime factors."""
    size: Any = scipy.fft.next_fast_len(2 * length, real=True)  # its stub says that it returns None
    return size


def _blocks(x: Tensor) -> Iterator[slice]:
    batch, length, d_inner = x.shape
    width = max(1, BLOCK // (batch * length))
    for first in range(0, d_inner, width):
        yield slice(first, min(first + width, d_inner))


def _channels_first(x: Tensor, channels: slice, dtype: torch.dtype) -> Tensor:
    return x[..., channels].permute(2, 0, 1).to(dtype, memory_format=torch.contiguous_format)
