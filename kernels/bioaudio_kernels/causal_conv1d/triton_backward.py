# type: ignore  (Triton's language is not Python: pyright cannot type it)
# ruff: noqa: RUF005  (and it has no unpacking)
"""The gradients of the convolution, in one pass forward in time.

With g_t the gradient of the sum at step t, before the activation:

    dx_s = sum_k w_k g_{s+W-1-k}    dw_k = sum_s x_s g_{s+W-1-k}    dbias = sum_t g_t

Everything about the input s is known at step s + W - 1, from the last W inputs (which also give y again) and
the last W values of g: two windows of registers. A chunk owns its inputs. Its first W - 1 steps only fill the
window of g, except in the first chunk of a sequence, where they complete the initial state.
"""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.causal_conv1d.triton_rows import (
    convolve,
    find_chunk,
    load_group,
    load_taps,
    load_window,
    offsets,
    push,
    raw_mask,
    some_lanes,
    unpack,
)
from bioaudio_kernels.triton_jit import jit
from bioaudio_kernels.triton_vectors import lane_mask, load_lanes, sigmoid


@jit
def backward_step(window, gs, d_taps, d_bias, x, dy, taps, bias, WIDTH: tl.constexpr, SILU: tl.constexpr):
    """One step: completes the gradient of the input WIDTH - 1 steps back, which is returned first.

    The windows hold the WIDTH - 1 inputs and values of g before this step, oldest first.
    """
    g = dy
    if SILU:
        y = convolve(window, x, taps, bias, WIDTH)
        s = sigmoid(y)
        g = dy * (s + y * s * (1.0 - s))
    source = window[0] if WIDTH > 1 else x
    dx = taps[0] * g
    new_taps = (d_taps[0] + source * g,)
    for k in tl.static_range(1, WIDTH):
        dx += taps[k] * gs[WIDTH - 1 - k]
        new_taps = new_taps + (d_taps[k] + source * gs[WIDTH - 1 - k],)
    return dx, push(window, x, WIDTH - 1), push(gs, g, WIDTH - 1), new_taps, d_bias + g


@jit
def backward_group(
    xs, dys, window, gs, d_taps, d_bias, taps, bias, p_x, p_dy, p_dx, channels, mask,
    WIDTH: tl.constexpr, COUNT: tl.constexpr, SILU: tl.constexpr, BLOCK: tl.constexpr, PACK: tl.constexpr,
):  # fmt: skip
    """COUNT steps whose inputs and gradients are loaded; p_dx is at the first input that they complete."""
    for u in tl.static_range(COUNT):
        x, dy = unpack(xs[u], p_x, BLOCK, PACK), unpack(dys[u], p_dy, BLOCK, PACK)
        dx, window, gs, d_taps, d_bias = backward_step(
            window, gs, d_taps, d_bias, x, dy, taps, bias, WIDTH, SILU
        )
        tl.store(p_dx + u * channels + tl.arange(0, BLOCK), dx, mask=mask)
    return window, gs, d_taps, d_bias


@jit
def edge_step(
    rest, window, gs, d_taps, d_bias, taps, bias, p_x, s_x, p_dy, s_dy, p_d_final, s_d_final, channels,
    WIDTH: tl.constexpr, SILU: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One step with `rest` steps of the sequence before it to its end; beyond, x and dy count as zero.

    Row j of the final state is the input WIDTH - 1 steps before step length + j: its gradient joins there.
    """
    inside = some_lanes(rest > 0, channels, BLOCK)
    x = load_lanes(p_x + offsets(s_x[2], BLOCK), inside)
    dy = load_lanes(p_dy + offsets(s_dy[2], BLOCK), inside)
    dx, window, gs, d_taps, d_bias = backward_step(window, gs, d_taps, d_bias, x, dy, taps, bias, WIDTH, SILU)
    if p_d_final is not None:
        row = p_d_final - rest * s_d_final[1] + offsets(s_d_final[2], BLOCK)
        dx += load_lanes(row, some_lanes((rest <= 0) & (rest > 1 - WIDTH), channels, BLOCK))
    return dx, window, gs, d_taps, d_bias


@jit
def first_step(
    k, rest, window, gs, d_taps, d_bias, taps, bias, p_x, s_x, p_dy, s_dy, p_d_final, s_d_final,
    p_d_initial, channels, left, i_c, WIDTH: tl.constexpr, SILU: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Step k < WIDTH - 1 of a chunk: completes a row of the initial state, or an input before the chunk."""
    p_x += k * tl.cast(s_x[1], tl.int64)
    p_dy += k * tl.cast(s_dy[1], tl.int64)
    dx, window, gs, d_taps, d_bias = edge_step(
        rest - k, window, gs, d_taps, d_bias, taps, bias, p_x, s_x, p_dy, s_dy, p_d_final, s_d_final, left,
        WIDTH, SILU, BLOCK,
    )  # fmt: skip
    if p_d_initial is not None:
        tl.store(p_d_initial + k * channels + tl.arange(0, BLOCK), dx, mask=some_lanes(i_c == 0, left, BLOCK))
    return window, gs, d_taps, d_bias


@jit(do_not_specialize=["length", "n_sequences", "chunk"])
def backward_kernel(
    p_x, s_x, p_weight, s_weight, p_bias, p_initial, s_initial, p_cu, p_dy, s_dy, p_d_final, s_d_final,
    p_dx, p_d_params, p_d_initial, n_sequences, length, chunk, channels,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr, SILU: tl.constexpr, EVEN: tl.constexpr,
    PACK: tl.constexpr,
):  # fmt: skip
    """dx, d_initial (sequences, WIDTH - 1, channels), and of each chunk d_params (WIDTH + 1, channels).

    The rows of d_params are those of the taps and then that of the bias. Grid as in the forward pass.
    """
    n_blocks = tl.cdiv(channels, BLOCK)
    pid = tl.program_id(0)
    first = tl.cast(pid % n_blocks, tl.int64) * BLOCK
    i_chunk = pid // n_blocks
    i_s, start, steps_in_all, i_c, t0 = find_chunk(i_chunk, p_cu, n_sequences, length, chunk)
    left = (channels - first).to(tl.int32)
    lanes = tl.arange(0, BLOCK)
    mask = lane_mask(lanes, left, EVEN)
    if p_cu is None:
        p_x += i_s * s_x[0]
        p_dy += i_s * s_dy[0]
        p_dx += i_s * length * channels
    p_x += start * s_x[1] + first * s_x[2]
    p_dy += (start + t0) * s_dy[1] + first * s_dy[2]
    p_dx += (start + t0) * channels + first
    if p_initial is not None:
        p_initial += i_s * s_initial[0] + first * s_initial[2]
    if p_d_initial is not None:
        p_d_initial += i_s * (WIDTH - 1) * channels + first
    if p_d_final is not None:
        p_d_final += i_s * s_d_final[0] + first * s_d_final[2]
    taps = load_taps(p_weight + first * s_weight[0], s_weight, mask, WIDTH, BLOCK)
    bias = 0.0 if p_bias is None else load_lanes(p_bias + first + lanes, mask)
    window = load_window(p_x, s_x, p_initial, s_initial, t0, steps_in_all, left, WIDTH, BLOCK)
    p_x += t0 * s_x[1]
    gs = ()
    d_taps = ()
    for _ in tl.static_range(WIDTH - 1):
        gs = gs + (tl.zeros([BLOCK], tl.float32),)
    for _ in tl.static_range(WIDTH):
        d_taps = d_taps + (tl.zeros([BLOCK], tl.float32),)
    d_bias = tl.zeros([BLOCK], tl.float32)

    rest = steps_in_all - t0
    if WIDTH <= 5:
        for k in tl.static_range(WIDTH - 1):
            window, gs, d_taps, d_bias = first_step(
                k, rest, window, gs, d_taps, d_bias, taps, bias, p_x, s_x, p_dy, s_dy, p_d_final, s_d_final,
                p_d_initial, channels, left, i_c, WIDTH, SILU, BLOCK,
            )  # fmt: skip
    else:
        for k in range(WIDTH - 1):
            window, gs, d_taps, d_bias = first_step(
                k, rest, window, gs, d_taps, d_bias, taps, bias, p_x, s_x, p_dy, s_dy, p_d_final, s_d_final,
                p_d_initial, channels, left, i_c, WIDTH, SILU, BLOCK,
            )  # fmt: skip
    own_taps = ()
    for k in tl.static_range(WIDTH):
        own_taps = own_taps + (tl.where(i_c == 0, d_taps[k], 0.0),)
    d_taps = own_taps
    d_bias = tl.where(i_c == 0, d_bias, 0.0)

    # Steps WIDTH - 1 to `end` complete the chunk's inputs; those from `whole` on are at the sequence's end.
    end = (tl.minimum(tl.maximum(rest, 0), chunk) + WIDTH - 1).to(tl.int32)
    count = tl.minimum(rest, end).to(tl.int32) - (WIDTH - 1)
    whole = WIDTH - 1 + tl.maximum(count, 0) // UNROLL * UNROLL
    p_x += (WIDTH - 1) * tl.cast(s_x[1], tl.int64)
    p_dy += (WIDTH - 1) * tl.cast(s_dy[1], tl.int64)
    loads = raw_mask(left, BLOCK, PACK, EVEN)
    begin = WIDTH - 1
    x_ahead = load_group(p_x, s_x, tl.where(begin < whole, loads, False), UNROLL, BLOCK, PACK)
    dy_ahead = load_group(p_dy, s_dy, tl.where(begin < whole, loads, False), UNROLL, BLOCK, PACK)
    for t in range(begin, whole, UNROLL):
        xs, dys = x_ahead, dy_ahead
        p_x += UNROLL * tl.cast(s_x[1], tl.int64)
        p_dy += UNROLL * tl.cast(s_dy[1], tl.int64)
        x_ahead = load_group(p_x, s_x, tl.where(t + UNROLL < whole, loads, False), UNROLL, BLOCK, PACK)
        dy_ahead = load_group(p_dy, s_dy, tl.where(t + UNROLL < whole, loads, False), UNROLL, BLOCK, PACK)
        window, gs, d_taps, d_bias = backward_group(
            xs, dys, window, gs, d_taps, d_bias, taps, bias, p_x, p_dy, p_dx, channels, mask,
            WIDTH, UNROLL, SILU, BLOCK, PACK,
        )  # fmt: skip
        p_dx += UNROLL * channels
    for t in range(whole, end):
        dx, window, gs, d_taps, d_bias = edge_step(
            rest - t, window, gs, d_taps, d_bias, taps, bias, p_x, s_x, p_dy, s_dy, p_d_final, s_d_final,
            left, WIDTH, SILU, BLOCK,
        )  # fmt: skip
        tl.store(p_dx + lanes, dx, mask=mask)
        p_x += s_x[1]
        p_dy += s_dy[1]
        p_dx += channels

    p_d_params += tl.cast(i_chunk, tl.int64) * (WIDTH + 1) * channels + first
    for k in tl.static_range(WIDTH):
        tl.store(p_d_params + k * channels + lanes, d_taps[k], mask=mask)
    tl.store(p_d_params + WIDTH * channels + lanes, d_bias, mask=mask)
