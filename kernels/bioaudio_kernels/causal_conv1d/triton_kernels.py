# type: ignore  (Triton's language is not Python: pyright cannot type it)
# ruff: noqa: RUF005  (and it has no unpacking)
"""Kernels of the causal depthwise convolution: y_t = act(sum_k w_k x_{t-W+1+k} + bias), channel by channel.

Lanes are channels, time is a loop over a chunk, and the last W - 1 inputs of a channel slide through a tuple
of registers: every element is read once, whatever the width. Chunks are independent; each reads the W - 1
inputs before it, from x or from the initial state. Names as in the scan's kernels: `p_` pointers, `s_`
strides, `i_` indices of the program.
"""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.selective_scan.triton_math import lane_mask, load_lanes, sigmoid
from bioaudio_kernels.triton_jit import jit


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
def load_taps(p_weight, s_weight, c, mask, WIDTH: tl.constexpr):
    """The WIDTH weights of each channel, that of the oldest input first."""
    taps = ()
    for k in tl.static_range(WIDTH):
        taps = taps + (load_lanes(p_weight + c * s_weight[0] + k * s_weight[1], mask),)
    return taps


@jit
def load_window(p_x, s_x, p_initial, s_initial, t0, c, channels, WIDTH: tl.constexpr):
    """The WIDTH - 1 inputs before step t0; before step 0 they come from the initial state (None: zeros)."""
    window = ()
    for k in tl.static_range(WIDTH - 1):
        t = t0 - (WIDTH - 1) + k
        row = load_lanes(p_x + t * s_x[1] + c * s_x[2], c < tl.where(t >= 0, channels, 0))
        if p_initial is not None:
            # At t0 = 0 the t-th row before the sequence is row t + WIDTH - 1 of the state.
            before = p_initial + (t + WIDTH - 1) * s_initial[1] + c * s_initial[2]
            row += load_lanes(before, c < tl.where(t < 0, channels, 0))
        window = window + (row,)
    return window


@jit
def forward_group(
    t, window, p_x, s_x, p_y, channels, taps, bias, mask,
    WIDTH: tl.constexpr, UNROLL: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """UNROLL steps; their loads are issued before the first."""
    xs = ()
    for u in tl.static_range(UNROLL):
        xs = xs + (load_lanes(p_x + (t + u) * s_x[1], mask),)
    for u in tl.static_range(UNROLL):
        y = convolve(window, xs[u], taps, bias, WIDTH)
        if SILU:
            y = y * sigmoid(y)
        tl.store(p_y + (t + u) * channels, y, mask=mask)
        window = push(window, xs[u], WIDTH - 1)
    return window


@jit(do_not_specialize=["length"])
def forward_kernel(
    p_x, s_x, p_weight, s_weight, p_bias, p_initial, s_initial, p_y, p_final, length, channels,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr, SILU: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """y, and the final state from the last chunk. Grid: (channel blocks * chunks * batch,)."""
    n_blocks = tl.cdiv(channels, BLOCK)
    n_chunks = tl.cdiv(length, CHUNK)
    pid = tl.program_id(0)
    c = ((pid % n_blocks) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    i_c = ((pid // n_blocks) % n_chunks).to(tl.int64)
    i_b = (pid // n_blocks // n_chunks).to(tl.int64)
    mask = lane_mask(c, channels, EVEN)
    t0 = i_c * CHUNK
    p_x += i_b * s_x[0]
    if p_initial is not None:
        p_initial += i_b * s_initial[0]
    taps = load_taps(p_weight, s_weight, c, mask, WIDTH)
    bias = 0.0 if p_bias is None else load_lanes(p_bias + c, mask)
    window = load_window(p_x, s_x, p_initial, s_initial, t0, c, channels, WIDTH)
    p_x += t0 * s_x[1] + c * s_x[2]
    p_y += (i_b * length + t0) * channels + c
    steps = tl.minimum(length - t0, CHUNK).to(tl.int32)
    whole = steps // UNROLL * UNROLL
    for t in range(0, whole, UNROLL):
        window = forward_group(
            tl.cast(t, tl.int64), window, p_x, s_x, p_y, channels, taps, bias, mask, WIDTH, UNROLL, SILU
        )
    for t in range(whole, steps):
        window = forward_group(
            tl.cast(t, tl.int64), window, p_x, s_x, p_y, channels, taps, bias, mask, WIDTH, 1, SILU
        )
    if i_c == n_chunks - 1:
        for k in tl.static_range(WIDTH - 1):
            tl.store(p_final + (i_b * (WIDTH - 1) + k) * channels + c, window[k], mask=mask)


@jit
def backward_step(
    window, pending, d_taps, d_bias, x, dy, taps, bias,
    WIDTH: tl.constexpr, SILU: tl.constexpr, OWN: tl.constexpr,
):  # fmt: skip
    """One step of the gradient, forward in time.

    `pending` holds what earlier steps gave to the gradients of the last WIDTH - 1 inputs. Step t gives the
    last share to the input WIDTH - 1 steps back, which is returned first. Only OWN steps count for the
    parameters.
    """
    g = dy
    if SILU:
        y = convolve(window, x, taps, bias, WIDTH)
        s = sigmoid(y)
        g = dy * s * (1.0 + y * (1.0 - s))
    new_taps = ()
    if OWN:
        for k in tl.static_range(WIDTH - 1):
            new_taps = new_taps + (d_taps[k] + g * window[k],)
        new_taps = new_taps + (d_taps[WIDTH - 1] + g * x,)
        d_bias += g
    else:
        new_taps = d_taps
    shares = ()
    for k in tl.static_range(WIDTH - 1):
        shares = shares + (pending[k] + taps[k] * g,)
    shares = shares + (taps[WIDTH - 1] * g,)
    new_pending = ()
    for k in tl.static_range(1, WIDTH):
        new_pending = new_pending + (shares[k],)
    return shares[0], push(window, x, WIDTH - 1), new_pending, new_taps, d_bias


@jit
def backward_group(
    t, window, pending, d_taps, d_bias, p_x, s_x, p_dy, s_dy, p_dx, channels, taps, bias, mask,
    WIDTH: tl.constexpr, UNROLL: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """UNROLL steps; their loads are issued before the first."""
    xs = ()
    dys = ()
    for u in tl.static_range(UNROLL):
        xs = xs + (load_lanes(p_x + (t + u) * s_x[1], mask),)
        dys = dys + (load_lanes(p_dy + (t + u) * s_dy[1], mask),)
    for u in tl.static_range(UNROLL):
        dx, window, pending, d_taps, d_bias = backward_step(
            window, pending, d_taps, d_bias, xs[u], dys[u], taps, bias, WIDTH, SILU, True
        )
        tl.store(p_dx + (t + u - (WIDTH - 1)) * channels, dx, mask=mask)
    return window, pending, d_taps, d_bias


@jit(do_not_specialize=["length"])
def backward_kernel(
    p_x, s_x, p_weight, s_weight, p_bias, p_initial, s_initial, p_dy, s_dy, p_d_final, s_d_final,
    p_dx, p_d_weight, p_d_bias, p_d_initial, length, channels,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr, SILU: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """dx, d_initial (batch, WIDTH - 1, channels), and one row a chunk of d_weight and d_bias.

    A chunk owns its inputs, so it also runs the WIDTH - 1 steps after it, whose outputs depend on them; it
    has at least WIDTH - 1 steps. d_weight is (batch * chunks, WIDTH, channels). Row j of the final state is
    the input WIDTH - 1 steps before step length + j: its gradient joins there.
    """
    n_blocks = tl.cdiv(channels, BLOCK)
    n_chunks = tl.cdiv(length, CHUNK)
    pid = tl.program_id(0)
    c = ((pid % n_blocks) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    i_c = ((pid // n_blocks) % n_chunks).to(tl.int64)
    i_b = (pid // n_blocks // n_chunks).to(tl.int64)
    mask = lane_mask(c, channels, EVEN)
    t0 = i_c * CHUNK
    steps = tl.minimum(length - t0, CHUNK).to(tl.int32)
    p_x += i_b * s_x[0]
    if p_initial is not None:
        p_initial += i_b * s_initial[0]
    taps = load_taps(p_weight, s_weight, c, mask, WIDTH)
    bias = 0.0 if p_bias is None else load_lanes(p_bias + c, mask)
    window = load_window(p_x, s_x, p_initial, s_initial, t0, c, channels, WIDTH)
    p_x += t0 * s_x[1] + c * s_x[2]
    p_dy += i_b * s_dy[0] + t0 * s_dy[1] + c * s_dy[2]
    p_dx += (i_b * length + t0) * channels + c
    pending = ()
    d_taps = ()
    for _ in tl.static_range(WIDTH - 1):
        pending = pending + (tl.zeros([BLOCK], tl.float32),)
    for _ in tl.static_range(WIDTH):
        d_taps = d_taps + (tl.zeros([BLOCK], tl.float32),)
    d_bias = tl.zeros([BLOCK], tl.float32)

    # The first steps complete inputs before the chunk: the chunk before has them, and the initial state.
    for k in tl.static_range(WIDTH - 1):
        inside = c < tl.where(k < steps, channels, 0)
        x = load_lanes(p_x + k * s_x[1], inside)
        dy = load_lanes(p_dy + k * s_dy[1], inside)
        dx, window, pending, d_taps, d_bias = backward_step(
            window, pending, d_taps, d_bias, x, dy, taps, bias, WIDTH, SILU, True
        )
        if p_d_initial is not None:
            if p_d_final is not None:
                j = k - length
                rows = c < tl.where((j >= 0) & (i_c == 0), channels, 0)
                dx += load_lanes(p_d_final + i_b * s_d_final[0] + j * s_d_final[1] + c * s_d_final[2], rows)
            first = c < tl.where(i_c == 0, channels, 0)
            tl.store(p_d_initial + (i_b * (WIDTH - 1) + k) * channels + c, dx, mask=first)

    begin = tl.minimum(steps, WIDTH - 1)
    whole = begin + (steps - begin) // UNROLL * UNROLL
    for t in range(begin, whole, UNROLL):
        window, pending, d_taps, d_bias = backward_group(
            tl.cast(t, tl.int64), window, pending, d_taps, d_bias, p_x, s_x, p_dy, s_dy, p_dx, channels,
            taps, bias, mask, WIDTH, UNROLL, SILU,
        )  # fmt: skip
    for t in range(whole, steps):
        window, pending, d_taps, d_bias = backward_group(
            tl.cast(t, tl.int64), window, pending, d_taps, d_bias, p_x, s_x, p_dy, s_dy, p_dx, channels,
            taps, bias, mask, WIDTH, 1, SILU,
        )  # fmt: skip

    # The steps after the chunk complete its last inputs.
    for k in tl.static_range(WIDTH - 1):
        t = tl.maximum(steps, WIDTH - 1) + k
        inside = c < tl.where(t0 + t < length, channels, 0)
        x = load_lanes(p_x + t * s_x[1], inside)
        dy = load_lanes(p_dy + t * s_dy[1], inside)
        dx, window, pending, d_taps, d_bias = backward_step(
            window, pending, d_taps, d_bias, x, dy, taps, bias, WIDTH, SILU, False
        )
        own = t - (WIDTH - 1) < steps
        if p_d_final is not None:
            j = t0 + t - length
            rows = c < tl.where((j >= 0) & own, channels, 0)
            dx += load_lanes(p_d_final + i_b * s_d_final[0] + j * s_d_final[1] + c * s_d_final[2], rows)
        tl.store(p_dx + (t - (WIDTH - 1)).to(tl.int64) * channels, dx, mask=c < tl.where(own, channels, 0))

    i_bc = i_b * n_chunks + i_c
    for k in tl.static_range(WIDTH):
        tl.store(p_d_weight + (i_bc * WIDTH + k) * channels + c, d_taps[k], mask=mask)
    tl.store(p_d_bias + i_bc * channels + c, d_bias, mask=mask)
