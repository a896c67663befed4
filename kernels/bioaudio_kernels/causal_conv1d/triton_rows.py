# type: ignore  (Triton's language is not Python: pyright cannot type it)
# ruff: noqa: RUF005  (and it has no unpacking)
"""Pieces shared by the convolution's kernels: which steps a program has, and how it reads rows of x.

A program is one warp with BLOCK channels and one chunk of a sequence. Names as in the scan's kernels: `p_`
pointers, `s_` strides, `i_` indices of the program.
"""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.triton_jit import jit
from bioaudio_kernels.triton_vectors import lane_mask, load_lanes, sigmoid


@jit
def find_chunk(i, p_cu, n_sequences, length, chunk):
    """The i-th chunk: its sequence, that one's start and length, the chunk's number in it and its first step.

    Without p_cu there are `n_sequences` of `length` steps, each in a row of the batch of its own. With it
    they lie one after another in one row, sequence s from step p_cu[s] to p_cu[s + 1] - 1, and chunks start
    anew with each sequence. Sequence s then owns the chunks from p_cu[s] // chunk + s on: at least one, never
    too few, and length // chunk + n_sequences of all of them are enough, so that nobody counts them. A chunk
    too many starts at or after the end of its sequence.
    """
    if p_cu is None:
        n_chunks = tl.cdiv(length, chunk)
        i_s = i // n_chunks
        start = tl.cast(0, tl.int64)
        i_c = i % n_chunks
    else:
        i_s = tl.cast(0, tl.int32)
        beyond = tl.cast(n_sequences, tl.int32)
        while beyond - i_s > 1:
            middle = (i_s + beyond) // 2
            owns = tl.load(p_cu + middle).to(tl.int64) // chunk + middle <= i
            i_s = tl.where(owns, middle, i_s)
            beyond = tl.where(owns, beyond, middle)
        start = tl.load(p_cu + i_s).to(tl.int64)
        i_c = (i - start // chunk - i_s).to(tl.int32)
        length = (tl.load(p_cu + i_s + 1) - start).to(tl.int64)
    return i_s.to(tl.int64), start, tl.cast(length, tl.int64), i_c, i_c.to(tl.int64) * chunk


@jit
def offsets(stride, BLOCK: tl.constexpr):
    """Of a program's channels from its first."""
    return tl.arange(0, BLOCK) * tl.cast(stride, tl.int64)


@jit
def load_raw(p, s_c, mask, BLOCK: tl.constexpr, PACK: tl.constexpr):
    """BLOCK channels from the scalar pointer p on; PACK = 2 takes two neighbours of 16 bits as one word.

    What a loop loads ahead must stay as it came: taking a 16-bit value out of its register waits for it.
    The mask has BLOCK / PACK lanes; where it is false the result is 0.
    """
    if PACK == 1:
        raw = tl.load(p + offsets(s_c, BLOCK), mask=mask, other=0.0).to(tl.float32)
    else:
        raw = tl.load(p.to(tl.pointer_type(tl.int32)) + tl.arange(0, BLOCK // 2), mask=mask, other=0)
    return raw


@jit
def unpack(raw, like, BLOCK: tl.constexpr, PACK: tl.constexpr):
    """What `load_raw` gave, as fp32; `like` is a pointer of the tensor's dtype."""
    if PACK == 1:
        values = raw
    else:
        if like.dtype.element_ty == tl.bfloat16:
            low = (raw << 16).to(tl.float32, bitcast=True)
            high = (raw & -65536).to(tl.float32, bitcast=True)
        else:
            low = raw.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
            high = (raw >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
        values = tl.reshape(tl.join(low, high), [BLOCK])
    return values


@jit
def raw_mask(channels, BLOCK: tl.constexpr, PACK: tl.constexpr, EVEN: tl.constexpr):
    """The mask for `load_raw` of a program with that many channels, or BLOCK if that is less."""
    return lane_mask(tl.arange(0, BLOCK // PACK) * PACK, channels, EVEN)


@jit
def some_lanes(condition, channels, BLOCK: tl.constexpr):
    """The mask of the first `channels` lanes, or of none where the condition is false."""
    return tl.arange(0, BLOCK) < tl.where(condition, channels, 0)


@jit
def load_group(p, s, mask, COUNT: tl.constexpr, BLOCK: tl.constexpr, PACK: tl.constexpr):
    """COUNT rows, as they came."""
    rows = ()
    for u in tl.static_range(COUNT):
        rows = rows + (load_raw(p + u * s[1], s[2], mask, BLOCK, PACK),)
    return rows


@jit
def load_taps(p_weight, s_weight, mask, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """The WIDTH weights of each channel, that of the oldest input first."""
    taps = ()
    for k in tl.static_range(WIDTH):
        taps = taps + (load_lanes(p_weight + k * s_weight[1] + offsets(s_weight[0], BLOCK), mask),)
    return taps


@jit
def load_window(
    p_x, s_x, p_initial, s_initial, t0, length, channels, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    """The WIDTH - 1 inputs before step t0; before step 0 they come from the initial state (None: zeros)."""
    window = ()
    for k in tl.static_range(WIDTH - 1):
        t = t0 - (WIDTH - 1) + k
        row = load_lanes(
            p_x + t * s_x[1] + offsets(s_x[2], BLOCK), some_lanes((t >= 0) & (t < length), channels, BLOCK)
        )
        if p_initial is not None:
            # Step t before the sequence is row t + WIDTH - 1 of the state.
            before = p_initial + (t + WIDTH - 1) * s_initial[1] + offsets(s_initial[2], BLOCK)
            state = tl.load(before, mask=some_lanes(t < 0, channels, BLOCK), other=0.0)
            row += state.to(p_x.dtype.element_ty).to(tl.float32)
        window = window + (row,)
    return window


@jit
def push(window, x, COUNT: tl.constexpr):
    """Drop the oldest of COUNT rows and append x."""
    new = ()
    for k in tl.static_range(1, COUNT):
        new = new + (window[k],)
    if COUNT > 0:
        new = new + (x,)
    return new


@jit
def convolve(window, x, taps, bias, WIDTH: tl.constexpr):
    """The convolution at one step, from the WIDTH - 1 inputs before it and its own."""
    total = taps[WIDTH - 1] * x + bias
    for k in tl.static_range(WIDTH - 1):
        total += taps[k] * window[k]
    return total


@jit
def activate(y, SILU: tl.constexpr):
    """SiLU, or nothing."""
    return y * sigmoid(y) if SILU else y
