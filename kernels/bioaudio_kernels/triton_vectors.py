# type: ignore  (Triton's language is not Python: pyright cannot type it)
"""What the Triton kernels of every operation do with vectors over channels."""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.triton_jit import jit

LOG2_E = tl.constexpr(1.4426950408889634)


@jit
def reciprocal(x):
    """1 / x for x >= 1, from the hardware's rsqrt: a division would check for ranges that do not occur."""
    root = tl.math.rsqrt(x)
    return root * root


@jit
def sigmoid(x):
    """1 / (1 + exp(-x)), two special-function instructions."""
    return reciprocal(1.0 + tl.exp2(x * -LOG2_E))


@jit
def lane_mask(lanes, end, EVEN: tl.constexpr):
    """Which lanes exist; if all do, a constant, which the compiler drops from loads and stores."""
    return tl.full(lanes.shape, True, tl.int1) if EVEN else lanes < end


@jit
def load_lanes(p, mask):
    """A vector over channels as fp32; 0 where the mask is false."""
    return tl.load(p, mask=mask, other=0.0).to(tl.float32)
