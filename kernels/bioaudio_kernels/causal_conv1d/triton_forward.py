# type: ignore  (Triton's language is not Python: pyright cannot type it)
"""The convolution itself and one step of it: y_t = act(sum_k w_k x_{t-W+1+k} + bias), channel by channel.

Lanes are channels, time is a loop over a chunk, and the last W - 1 inputs of a channel slide through a tuple
of registers: every element is read once, whatever the width. Chunks are independent; each reads the W - 1
inputs before it, from x or from the initial state. The loop loads the next UNROLL steps before it computes
the present ones, so that a warp waits for memory as little as possible.
"""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.causal_conv1d.triton_rows import (
    activate,
    convolve,
    find_chunk,
    load_group,
    load_taps,
    load_window,
    push,
    raw_mask,
    unpack,
)
from bioaudio_kernels.triton_jit import jit
from bioaudio_kernels.triton_vectors import lane_mask, load_lanes


@jit
def forward_group(
    xs, window, taps, bias, p_x, p_y, channels, mask,
    WIDTH: tl.constexpr, COUNT: tl.constexpr, SILU: tl.constexpr, BLOCK: tl.constexpr, PACK: tl.constexpr,
):  # fmt: skip
    """COUNT steps whose inputs are loaded."""
    for u in tl.static_range(COUNT):
        x = unpack(xs[u], p_x, BLOCK, PACK)
        y = activate(convolve(window, x, taps, bias, WIDTH), SILU)
        tl.store(p_y + u * channels + tl.arange(0, BLOCK), y, mask=mask)
        window = push(window, x, WIDTH - 1)
    return window


@jit(do_not_specialize=["length", "n_sequences", "chunk"])
def forward_kernel(
    p_x, s_x, p_weight, s_weight, p_bias, p_initial, s_initial, p_cu, p_y, p_final,
    n_sequences, length, chunk, channels,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr, SILU: tl.constexpr, EVEN: tl.constexpr,
    PACK: tl.constexpr,
):  # fmt: skip
    """y, and the final state from the last chunk. Grid: (channel blocks * chunks,), see `find_chunk`."""
    n_blocks = tl.cdiv(channels, BLOCK)
    pid = tl.program_id(0)
    first = tl.cast(pid % n_blocks, tl.int64) * BLOCK
    i_s, start, steps_in_all, i_c, t0 = find_chunk(pid // n_blocks, p_cu, n_sequences, length, chunk)
    lanes = tl.arange(0, BLOCK)
    mask = lane_mask(lanes, channels - first, EVEN)
    if p_cu is None:
        p_x += i_s * s_x[0]
        p_y += i_s * length * channels
    p_x += start * s_x[1] + first * s_x[2]
    p_y += (start + t0) * channels + first
    if p_initial is not None:
        p_initial += i_s * s_initial[0] + first * s_initial[2]
    taps = load_taps(p_weight + first * s_weight[0], s_weight, mask, WIDTH, BLOCK)
    bias = 0.0 if p_bias is None else load_lanes(p_bias + first + lanes, mask)
    window = load_window(p_x, s_x, p_initial, s_initial, t0, steps_in_all, channels - first, WIDTH, BLOCK)

    p_x += t0 * s_x[1]
    loads = raw_mask(channels - first, BLOCK, PACK, EVEN)
    steps = tl.maximum(tl.minimum(steps_in_all - t0, chunk), 0).to(tl.int32)
    whole = steps // UNROLL * UNROLL
    ahead = load_group(p_x, s_x, tl.where(whole > 0, loads, False), UNROLL, BLOCK, PACK)
    for t in range(0, whole, UNROLL):
        xs = ahead
        p_x += UNROLL * tl.cast(s_x[1], tl.int64)
        ahead = load_group(p_x, s_x, tl.where(t + UNROLL < whole, loads, False), UNROLL, BLOCK, PACK)
        window = forward_group(
            xs, window, taps, bias, p_x, p_y, channels, mask, WIDTH, UNROLL, SILU, BLOCK, PACK
        )
        p_y += UNROLL * channels
    for _ in range(whole, steps):
        xs = load_group(p_x, s_x, loads, 1, BLOCK, PACK)
        window = forward_group(xs, window, taps, bias, p_x, p_y, channels, mask, WIDTH, 1, SILU, BLOCK, PACK)
        p_x += s_x[1]
        p_y += channels
    if i_c == tl.maximum(tl.cdiv(steps_in_all, chunk), 1) - 1:
        for k in tl.static_range(WIDTH - 1):
            tl.store(p_final + (i_s * (WIDTH - 1) + k) * channels + first + lanes, window[k], mask=mask)


@jit
def step_kernel(
    p_x, s_x, p_weight, s_weight, p_bias, p_state, s_state, p_y, p_new_state, channels,
    WIDTH: tl.constexpr, SILU: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y, and the new state: the old one without its first row, then x. Grid: (channel blocks * batch,)."""
    n_blocks = tl.cdiv(channels, BLOCK)
    pid = tl.program_id(0)
    c = ((pid % n_blocks) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    i_b = (pid // n_blocks).to(tl.int64)
    mask = c < channels
    dtype = p_x.dtype.element_ty
    p_new_state += i_b * (WIDTH - 1) * channels + c
    p_state += i_b * s_state[0] + c * s_state[2]
    p_weight += c * s_weight[0]
    x = tl.load(p_x + i_b * s_x[0] + c * s_x[1], mask=mask, other=0.0)
    total = load_lanes(p_weight + (WIDTH - 1) * s_weight[1], mask) * x.to(tl.float32)
    if p_bias is not None:
        total += load_lanes(p_bias + c, mask)
    for k in tl.static_range(WIDTH - 1):
        row = tl.load(p_state + k * s_state[1], mask=mask, other=0.0).to(dtype)
        total += load_lanes(p_weight + k * s_weight[1], mask) * row.to(tl.float32)
        if k > 0:
            tl.store(p_new_state + (k - 1) * channels, row, mask=mask)
    if WIDTH > 1:
        tl.store(p_new_state + (WIDTH - 2) * channels, x, mask=mask)
    tl.store(p_y + i_b * channels + c, activate(total, SILU), mask=mask)
