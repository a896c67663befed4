# type: ignore  (Triton's language is not Python: pyright cannot type it)
# ruff: noqa: RUF005  (and it has no unpacking)
"""Pieces shared by the kernels: softplus, masks, loads of states and of rows of B and C, sums over channels.

One softplus serves the forward pass, the backward pass and decoding, so that a model answers the same
whichever of them it runs through. Decays are exp2(dt * A * log2(e)): exp2 is one hardware instruction.
"""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.triton_jit import jit

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@jit
def exp_minus_abs(x):
    """exp(-|x|), in (0, 1]: the number from which softplus and its derivative are made."""
    return tl.exp2(tl.abs(x) * -LOG2_E)


@jit
def softplus_from(x, e):
    """log(1 + exp(x)) given e = exp(-|x|), to 2e-7 relative for every x.

    max(x, 0) + log1p(e), where log1p(e) / e is a minimax polynomial on [0, 1]: no logarithm, no division,
    and no loss for very negative x, where log(exp(x) + 1) returns 0.
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
    """1 / x for x >= 1, from the hardware's rsqrt: a division would check for ranges that do not occur."""
    root = tl.math.rsqrt(x)
    return root * root


@jit
def sigmoid(x):
    """1 / (1 + exp(-x)), two special-function instructions."""
    return reciprocal(1.0 + tl.exp2(x * -LOG2_E))


@jit
def step_size(raw, SOFTPLUS: tl.constexpr):
    """dt from its raw value, bias already added."""
    return softplus_from(raw, exp_minus_abs(raw)) if SOFTPLUS else raw


@jit
def lane_mask(lanes, size, EVEN: tl.constexpr):
    """Which lanes exist; if all do, a constant, which the compiler drops from loads and stores."""
    return tl.full(lanes.shape, True, tl.int1) if EVEN else lanes < size


@jit
def load_lanes(p, mask):
    """A vector over channels as fp32; 0 where the mask is false."""
    return tl.load(p, mask=mask, other=0.0).to(tl.float32)


@jit
def state_masks(mask, d, d_inner, n_valid, NB: tl.constexpr, MASK_N: tl.constexpr):
    """For each of NB states its mask over channels: empty past the last state, else that of the channels."""
    masks = ()
    for n in tl.static_range(NB):
        masks = masks + ((d < tl.where(n < n_valid, d_inner, 0)) if MASK_N else mask,)
    return masks


@jit
def load_states(p, stride_n, masks, NB: tl.constexpr):
    """NB vectors over channels, `stride_n` apart, as fp32."""
    values = ()
    for n in tl.static_range(NB):
        values = values + (load_lanes(p + n * stride_n, masks[n]),)
    return values


@jit
def store_states(p, stride_n, values, masks, NB: tl.constexpr):
    """The reverse of `load_states`."""
    for n in tl.static_range(NB):
        tl.store(p + n * stride_n, values[n], mask=masks[n])


@jit
def full_states(value, NB: tl.constexpr, BLOCK_D: tl.constexpr):
    """NB vectors over channels, all equal to `value`."""
    values = ()
    for _ in tl.static_range(NB):
        values = values + (tl.full([BLOCK_D], value, tl.float32),)
    return values


@jit
def load_decay(p_A, s_A, d, n0, masks, NB: tl.constexpr):
    """A in base 2: exp(dt A) = exp2(dt decay)."""
    A = load_states(p_A + d * s_A[0] + n0 * s_A[1], s_A[1], masks, NB)
    decay = ()
    for n in tl.static_range(NB):
        decay = decay + (A[n] * LOG2_E,)
    return decay


@jit
def load_row(p_row, stride_n, n_valid, NB: tl.constexpr, PACK: tl.constexpr, MASK_N: tl.constexpr):
    """NB neighbouring values of B or C at one step, as NB fp32 scalars.

    Every lane loads the same address. With PACK > 1 values come PACK at a time in 64-bit words: as many
    conversions, but a quarter (16-bit types) or half (fp32) of the load instructions.
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
def sum_over_channels(values, NB: tl.constexpr, COUNT: tl.constexpr, BLOCK_D: tl.constexpr):
    """The sum over channels of each of NB vectors: lane i of 32 ends with that of vector i % COUNT.

    COUNT is NB rounded up to a power of two, at most 32; BLOCK_D is a multiple of 32. A butterfly in which
    each exchange also halves the number of vectors: of a pair, a lane sends the one that its partner keeps.
    That takes COUNT - 1 exchanges, and one more per doubling from COUNT to 32, instead of 5 * COUNT.
    """
    lane = tl.arange(0, 32)
    kept = ()
    for n in tl.static_range(NB):
        kept = kept + (tl.sum(tl.reshape(values[n], [32, BLOCK_D // 32]), 1),)
    for _ in tl.static_range(NB, COUNT):
        kept = kept + (tl.zeros([32], tl.float32),)
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
