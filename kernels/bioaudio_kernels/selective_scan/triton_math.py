# type: ignore  (Triton's language is not Python: pyright cannot type it)
# ruff: noqa: RUF005  (and it has no unpacking)
"""Arithmetic shared by the kernels: softplus, gate, decays, and numbers that are real or complex.

One softplus serves the forward pass, the backward pass and decoding, so that a model answers the same
whichever of them it runs through. Decays are exp2(dt * A * log2(e)): exp2 is one hardware instruction.

A state, a decay or a product of the two is a *number*: a tuple (real,) or (real, imaginary) of vectors over
channels or of scalars. Which of the two is known at compile time, and so costs nothing.
"""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.triton_jit import jit
from bioaudio_kernels.triton_vectors import LOG2_E

LN_2 = tl.constexpr(0.6931471805599453)
TURNS = tl.constexpr(0.15915494309189535)  # of a radian: 1 / (2 pi)
RADIANS_OVER_LN_2 = tl.constexpr(9.064720283654388)  # of a turn: 2 pi / ln 2


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
def step_size(raw, SOFTPLUS: tl.constexpr):
    """dt from its raw value, bias already added."""
    return softplus_from(raw, exp_minus_abs(raw)) if SOFTPLUS else raw


@jit
def cos_sin_of_turns(turns):
    """cos and sin of 2 pi * turns, to 1e-7 absolute: whole turns are exact, and no table or slow path."""
    half = tl.floor(2.0 * turns + 0.5)  # half turns
    r = turns - 0.5 * half  # in [-1/4, 1/4]
    s = r * r
    c = -25.006796640882385 * s + 60.148204950308354
    c = c * s - 85.45383071107926
    c = c * s + 64.93935359614127
    c = c * s - 19.739208624350812
    c = c * s + 1.0
    p = 39.53670604455692 * s - 76.5497822905736
    p = p * s + 81.601004073122
    p = p * s - 41.34165503141393
    p = p * s + 6.283185160089466
    odd = half - 2.0 * tl.floor(0.5 * half)
    sign = 1.0 - 2.0 * odd
    return c * sign, p * r * sign


@jit
def number_decay(dt, rate):
    """exp(dt A), where `rate` is A as `load_rates` gives it."""
    if len(rate) == 1:
        return (tl.exp2(dt * rate[0]),)
    else:
        cos, sin = cos_sin_of_turns(dt * rate[1])
        size = tl.exp2(dt * rate[0])
        return size * cos, size * sin


@jit
def rate_product(rate, a):
    """Re(A a) / ln 2."""
    if len(rate) == 1:
        return rate[0] * a[0]
    else:
        return rate[0] * a[0] - RADIANS_OVER_LN_2 * rate[1] * a[1]


@jit
def number_sum(a, b):
    """a + b."""
    if len(a) == 1:
        return (a[0] + b[0],)
    else:
        return a[0] + b[0], a[1] + b[1]


@jit
def number_product(a, b):
    """a b."""
    if len(a) == 1:
        return (a[0] * b[0],)
    else:
        return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


@jit
def product_real(a, b):
    """Re(a b)."""
    return a[0] * b[0] if len(a) == 1 else a[0] * b[0] - a[1] * b[1]


@jit
def scaled(factor, a):
    """A real factor times a number."""
    if len(a) == 1:
        return (factor * a[0],)
    else:
        return factor * a[0], factor * a[1]


@jit
def advance(h, dt, dtx, B, rates):
    """One step of the recurrence of all states."""
    new = ()
    for n in tl.static_range(len(h)):
        new = new + (number_sum(number_product(number_decay(dt, rates[n]), h[n]), scaled(dtx, B[n])),)
    return new


@jit
def sum_in_lanes(number, BLOCK_D: tl.constexpr):
    """Of each vector of a number, the sum over the channels of each lane; BLOCK_D is a multiple of 32."""
    sums = ()
    for part in tl.static_range(len(number)):
        sums = sums + (tl.sum(tl.reshape(number[part], [32, BLOCK_D // 32]), 1),)
    return sums


@jit
def sum_over_lanes(kept, COUNT: tl.constexpr):
    """The sum over 32 lanes of each of a tuple of vectors: lane i ends with that of vector i % COUNT.

    COUNT is their number rounded up to a power of two, at most 32. A butterfly in which each exchange also
    halves the number of vectors: of a pair, a lane sends the one that its partner keeps. That takes COUNT - 1
    exchanges, and one more per doubling from COUNT to 32, instead of 5 * COUNT.
    """
    lane = tl.arange(0, 32)
    for _ in tl.static_range(len(kept), COUNT):
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
