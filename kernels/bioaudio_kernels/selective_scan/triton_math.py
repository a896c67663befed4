"""Pieces shared by every scan kernel: softplus, sigmoid, and loading a row of B or C.

One softplus serves the forward pass, the backward pass and decoding, so that a model answers the same bit for
bit whichever of them it runs through. Decays are exp2(dt * A * log2(e)): `tl.exp2` is one hardware instruction.
"""

# ruff: noqa: RUF005, B007  (Triton has tuple concatenation, not unpacking)

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.triton_jit import jit

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@jit
def exp_minus_abs(x):
    """exp(-|x|), in (0, 1]: the number from which both softplus and its derivative are made."""
    return tl.exp2(tl.abs(x) * -LOG2_E)


@jit
def softplus_from(x, e):
    """log(1 + exp(x)) given e = exp(-|x|), to 2e-7 relative for every x.

    max(x, 0) + log1p(e), where log1p(e) / e is a minimax polynomial on [0, 1]: no logarithm, no division, and no
    loss for very negative x, where log(exp(x) + 1) returns 0.
    """
    p = 5.364810582250357e-3 * e - 3.0065739527344704e-2
    p = p * e + 7.920445501804352e-2
    p = p * e - 1.3753795623779297e-1
    p = p * e + 1.9153651595115662e-1
    p = p * e - 2.4857163429260254e-1
    p = p * e + 3.3321323990821838e-1
    p = p * e - 4.9999648332595825e-1
    p = p * e + 1.0
    return p * e + tl.maximum(x, 0.0)


@jit
def reciprocal(x):
    """1 / x for x >= 1: the hardware's rsqrt twice over, since a division would check for ranges that do not occur."""
    root = tl.math.rsqrt(x)
    return root * root


@jit
def sigmoid(x):
    return reciprocal(1.0 + tl.exp2(x * -LOG2_E))


@jit
def step_size(raw, SOFTPLUS: tl.constexpr):
    """dt from its raw value (bias already added)."""
    return softplus_from(raw, exp_minus_abs(raw)) if SOFTPLUS else raw


@jit
def load_lanes(p, mask):
    """A vector over channels as fp32; channels past the last one read 0 (mask None: there are none)."""
    if mask is None:
        value = tl.load(p)
    else:
        value = tl.load(p, mask=mask, other=0.0)
    return value.to(tl.float32)


@jit
def state_mask(mask, d, d_inner, exists, MASK_N: tl.constexpr):
    """The mask of one state over channels: that of the channels alone where every block of states is full."""
    if MASK_N:
        result = d < tl.where(exists, d_inner, 0)
    else:
        result = mask
    return result


@jit
def load_row(p_row, stride_n, n_valid, NB: tl.constexpr, PACK: tl.constexpr, MASK_N: tl.constexpr):
    """NB neighbouring values of B or C at one time step, as NB fp32 scalars.

    Every lane loads the same address. With PACK > 1 values come PACK at a time through 64-bit words, which takes
    as many conversions but a quarter (16-bit types) or half (fp32) of the load instructions.
    """
    row = ()
    if PACK == 1:
        for n in tl.static_range(NB):
            if MASK_N:
                value = tl.load(p_row + n * stride_n, mask=n < n_valid, other=0.0)
            else:
                value = tl.load(p_row + n * stride_n)
            row = row + (value.to(tl.float32),)
    else:
        p_word = p_row.to(tl.pointer_type(tl.int64))
        for i in tl.static_range(NB // PACK):
            word = tl.load(p_word + i)
            for half in tl.static_range(2):
                bits = (word >> (32 * half)).to(tl.int32)
                if PACK == 2:
                    row = row + (bits.to(tl.float32, bitcast=True),)
                elif p_row.dtype.element_ty == tl.bfloat16:
                    row = row + ((bits << 16).to(tl.float32, bitcast=True),)
                    row = row + ((bits & -65536).to(tl.float32, bitcast=True),)
                else:
                    row = row + (bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32),)
                    row = row + ((bits >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32),)
    return row


@jit
def sum_over_channels(values, COUNT: tl.constexpr, BLOCK_D: tl.constexpr):
    """The sum over channels of each of COUNT vectors: lane i of the result (32 lanes) holds that of vector i % COUNT.

    COUNT is a power of two up to 32; BLOCK_D is at least 32. A butterfly in which each exchange also halves the number of
    vectors: a lane sends the one of a pair that its neighbour will keep. COUNT - 1 exchanges instead of 5 * COUNT.
    """
    lane = tl.arange(0, 32)
    kept = ()
    for i in tl.static_range(COUNT):
        kept = kept + (tl.sum(tl.reshape(values[i], [32, BLOCK_D // 32]), 1),)
    for level in tl.static_range(5):
        partner = lane ^ (1 << level)
        if COUNT >> level > 1:
            upper = (lane & (1 << level)) != 0
            halved = ()
            for i in tl.static_range(COUNT >> (level + 1)):
                keep = tl.where(upper, kept[2 * i + 1], kept[2 * i])
                send = tl.where(upper, kept[2 * i], kept[2 * i + 1])
                halved = halved + (keep + tl.gather(send, partner, 0),)
            kept = halved
        else:
            kept = (kept[0] + tl.gather(kept[0], partner, 0),)
    return kept[0]
