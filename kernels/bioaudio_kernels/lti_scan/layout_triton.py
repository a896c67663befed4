# type: ignore  (Triton's language is not Python: pyright cannot type it)
"""A copy that reads along channels and writes along time, or the other way round, at full width both times.

torch's own copy walks along the target alone: its reads of 16-bit numbers then use 2 of the 32 bytes fetched.
"""

from __future__ import annotations

import torch
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from bioaudio_kernels.integers import ceil_div, next_power_of_2
from bioaudio_kernels.triton_jit import jit

STEPS, CHANNELS = 64, 64
"""A program's tile, within a chunk: at least 128 bytes along both axes, and small enough to turn in shared
memory."""


def copy_triton(
    source: Float[Tensor, "batch chunks T d_inner"], target: Float[Tensor, "batch chunks T d_inner"]
) -> None:
    """target = source, in the dtype of target; any strides."""
    batch, chunks, chunk, d_inner = source.shape
    steps = min(STEPS, max(16, next_power_of_2(chunk)))
    tiles = ceil_div(d_inner, CHANNELS) * ceil_div(chunk, steps)
    with torch.cuda.device_of(source):
        copy_kernel[(tiles * chunks * batch,)](
            source, source.stride(), target, target.stride(), chunks, chunk, d_inner,
            STEPS=steps, CHANNELS=CHANNELS, num_warps=4,
        )  # fmt: skip


@jit
def copy_kernel(
    source, s_source, target, s_target, chunks, chunk, d_inner, STEPS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Grid: (channel tiles * time tiles * chunks * batch,), channel tiles fastest; strides as the axes."""
    pid = tl.program_id(0)
    d_tiles, t_tiles = tl.cdiv(d_inner, CHANNELS), tl.cdiv(chunk, STEPS)
    column = (pid // d_tiles // t_tiles).to(tl.int64)
    b, c = column // chunks, column % chunks
    t = ((pid // d_tiles % t_tiles) * STEPS + tl.arange(0, STEPS)).to(tl.int64)[:, None]
    d = ((pid % d_tiles) * CHANNELS + tl.arange(0, CHANNELS)).to(tl.int64)[None, :]
    mask = (t < chunk) & (d < d_inner)
    source += b * s_source[0] + c * s_source[1]
    target += b * s_target[0] + c * s_target[1]
    tile = tl.load(source + t * s_source[2] + d * s_source[3], mask=mask)
    tl.store(target + t * s_target[2] + d * s_target[3], tile, mask=mask)
