# type: ignore  (Triton's language is not Python: pyright cannot type it)
# ruff: noqa: RUF005  (and it has no unpacking)
"""The kernel of the convolution's decoding steps. Names as in the scan's kernels."""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.causal_conv1d.triton_rows import activate, push
from bioaudio_kernels.triton_jit import jit
from bioaudio_kernels.triton_vectors import load_lanes


@jit(do_not_specialize=["length"])
def conv_update_kernel(
    p_x, s_x, p_state, s_state, p_weight, s_weight, p_bias, s_bias, p_seqlens, s_seqlens, p_rows, s_rows, p_y,
    channels, length, state_len,
    WIDTH: tl.constexpr, SILU: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y (batch, channels, length), and the cache (rows, channels, state_len) with x taken up in place.

    With `seqlens` the cache is a ring and x begins at place seqlens % state_len; without, the last input is
    its last column. Grid: (channel blocks * batch,). One warp, so that it reads what it has written.
    """
    n_blocks = tl.cdiv(channels, BLOCK)
    pid = tl.program_id(0)
    i_b = (pid // n_blocks).to(tl.int64)
    c = ((pid % n_blocks) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    row = i_b if p_rows is None else tl.load(p_rows + i_b * s_rows).to(tl.int64)
    mask = c < tl.where(row >= 0, channels, 0)
    p_state += row * s_state[0] + c * s_state[1]
    p_x += i_b * s_x[0] + c * s_x[1]
    p_y += (i_b * channels + c) * length
    taps = ()
    for k in tl.static_range(WIDTH):
        taps = taps + (load_lanes(p_weight + c * s_weight[0] + k * s_weight[1], mask),)
    bias = 0.0 if p_bias is None else load_lanes(p_bias + c * s_bias, mask)
    if p_seqlens is None:
        place = state_len - length
        oldest = state_len - (WIDTH - 1)
    else:
        place = (tl.load(p_seqlens + i_b * s_seqlens) % state_len).to(tl.int32)
        oldest = (place + state_len - (WIDTH - 1)) % state_len
    step = tl.cast(s_state[2], tl.int64)
    window = ()
    for k in tl.static_range(WIDTH - 1):
        at = oldest + k if p_seqlens is None else (oldest + k) % state_len
        window = window + (load_lanes(p_state + at * step, mask),)
    if p_seqlens is None:
        for j in range(0, tl.maximum(state_len - length, 0)):
            tl.store(p_state + j * step, tl.load(p_state + (j + length) * step, mask=mask), mask=mask)
    for t in range(length):
        x = load_lanes(p_x + tl.cast(t, tl.int64) * s_x[2], mask)
        total = taps[WIDTH - 1] * x + bias
        for k in tl.static_range(WIDTH - 1):
            total += taps[k] * window[k]
        tl.store(p_y + t, activate(total, SILU), mask=c < channels)
        at = place + t if p_seqlens is None else (place + t) % state_len
        tl.store(p_state + at * step, x, mask=c < tl.where((row >= 0) & (at >= 0), channels, 0))
        window = push(window, x, WIDTH - 1)


@jit
def four_taps_kernel(
    p_x, s_x, p_state, s_row, p_weight, p_bias, s_bias, p_rows, s_rows, p_y, channels,
    SILU: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`conv_update_kernel` for one step, four taps and a cache of four columns that moves along.

    Taps and columns of a channel lie together, so that a lane takes and leaves them as one word.
    """
    n_blocks = tl.cdiv(channels, BLOCK)
    pid = tl.program_id(0)
    i_b = (pid // n_blocks).to(tl.int64)
    c = (pid % n_blocks) * BLOCK + tl.arange(0, BLOCK)
    row = i_b if p_rows is None else tl.load(p_rows + i_b * s_rows).to(tl.int64)
    mask = c < tl.where(row >= 0, channels, 0)
    lanes, tile = mask[:, None], c[:, None] * 4 + tl.arange(0, 4)[None, :]
    p_state += row * s_row + tile
    old = tl.load(p_state, mask=lanes, other=0.0)
    x = tl.load(p_x + i_b * s_x[0] + c * s_x[1], mask=mask, other=0.0)
    even, odd = tl.split(tl.reshape(old, [BLOCK, 2, 2]))
    _, third = tl.split(even)
    second, fourth = tl.split(odd)
    new = tl.reshape(tl.join(tl.join(second, fourth), tl.join(third, x)), [BLOCK, 4])
    tl.store(p_state, new, mask=lanes)
    taps = tl.load(p_weight + tile, mask=lanes, other=0.0).to(tl.float32)
    total = tl.sum(taps * new.to(tl.float32), 1)
    if p_bias is not None:
        total += load_lanes(p_bias + c * s_bias, mask)
    tl.store(p_y + i_b * channels + c, activate(total, SILU), mask=c < channels)
