"""The decoding steps of the convolution on Triton, over a cache that moves along or is a ring, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from bioaudio_kernels.compat.triton_conv_update_kernel import conv_update_kernel, four_taps_kernel

BLOCK = 128
"""Channels of a program, which is one warp."""
FOUR_TAPS_BLOCK = 64
"""The same where a lane holds whole channels: for more, Triton would exchange them through shared memory."""


def conv_update_triton(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cache_seqlens: Tensor | None,
    rows: Tensor | None,
    silu: bool,
) -> Tensor:
    """See `causal_conv1d_update`; x is (batch, dim, length)."""
    return _conv_update(x, conv_state, weight, bias, cache_seqlens, rows, silu)


torch.library.define(
    "bioaudio::conv_update_in_place",
    "(Tensor x, Tensor(a!) conv_state, Tensor weight, Tensor? bias, Tensor? cache_seqlens, Tensor? rows, "
    "bool silu) -> Tensor",
)
_conv_update = torch.ops.bioaudio.conv_update_in_place.default


@torch.library.impl("bioaudio::conv_update_in_place", ("cpu", "cuda"))
def _(x, conv_state, weight, bias, cache_seqlens, rows, silu):
    batch, channels, length = x.shape
    y = x.new_empty(x.shape)
    if y.numel() == 0:
        return y
    torch.autograd.graph.increment_version(conv_state)
    s_bias, s_seqlens, s_rows = (0 if t is None else t.stride(0) for t in (bias, cache_seqlens, rows))
    with torch.cuda.device_of(x):
        if cache_seqlens is None and length == 1 and _has_four_taps_together(x, conv_state, weight):
            four_taps_kernel[(-(-channels // FOUR_TAPS_BLOCK) * batch,)](
                x, x.stride(), conv_state, conv_state.stride(0), weight, bias, s_bias, rows, s_rows, y,
                channels, SILU=silu, BLOCK=FOUR_TAPS_BLOCK, num_warps=1, enable_fp_fusion=True,
            )  # fmt: skip
            return y
        conv_update_kernel[(-(-channels // BLOCK) * batch,)](
            x, x.stride(), conv_state, conv_state.stride(), weight, weight.stride(), bias, s_bias,
            cache_seqlens, s_seqlens, rows, s_rows, y, channels, length, conv_state.shape[2],
            WIDTH=weight.shape[1], SILU=silu, BLOCK=BLOCK, num_warps=1, enable_fp_fusion=True,
        )  # fmt: skip
    return y


def _has_four_taps_together(x: Tensor, conv_state: Tensor, weight: Tensor) -> bool:
    """Whether `four_taps_kernel` knows these: as mamba_ssm and transformers keep them."""
    return (
        conv_state.shape[2] == weight.shape[1] == 4
        and conv_state.stride()[1:] == weight.stride() == (4, 1)
        and conv_state.dtype == x.dtype
    )


@torch.library.register_fake("bioaudio::conv_update_in_place")
def _(x, conv_state, weight, bias, cache_seqlens, rows, silu):
    return x.new_empty(x.shape)
