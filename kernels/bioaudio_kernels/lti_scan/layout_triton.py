# type: ignore  (Triton's language is not Python: pyright cannot type it)
"""A copy that reads along channels and writes along time, or the other way round, at full width both times.

torch's own copy walks along the target alone: its reads of 16-bit numbers then use 2 of the 32 bytes fetched.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from bioaudio_kernels.triton_jit import jit

STEPS, CHANNELS = 64, 64
"""A program's tile: at least 128 bytes along both axes, and small enough to turn in shared memory."""


def copy_triton(
    source: Float[Tensor, "batch length d_inner"], target: Float[Tensor, "batch length d_inner"]
) -> None:
    """target = source, in the dtype of target; any strides."""
    batch, length, d_inner = source.shape
    tiles = triton.cdiv(d_inner, CHANNELS) * triton.cdiv(length, STEPS)
    with torch.cuda.device_of(source):
        copy_kernel[(tiles * batch,)](
            source, source.stride(), target, target.stride(), length, d_inner,
            STEPS=STEPS, CHANNELS=CHANNELS, num_warps=4,
        )  # fmt: skip


@jit
def copy_kernel(
    source, s_source, target, s_target, length, d_inner, STEPS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Grid: (channel tiles * time tiles * batch,), channel tiles fastest; strides as the axes of x."""
    pid = tl.program_id(0)
    d_tiles, t_tiles = tl.cdiv(d_inner, CHANNELS), tl.cdiv(length, STEPS)
    b = (pid // d_tiles // t_tiles).to(tl.int64)
    t = ((pid // d_tiles % t_tiles) * STEPS + tl.arange(0, STEPS)).to(tl.int64)[:, None]
    d = ((pid % d_tiles) * CHANNELS + tl.arange(0, CHANNELS)).to(tl.int64)[None, :]
    mask = (t < length) & (d < d_inner)
    tile = tl.load(source + b * s_source[0] + t * s_source[1] + d * s_source[2], mask=mask)
    tl.store(target + b * s_target[0] + t * s_target[1] + d * s_target[2], tile, mask=mask)
