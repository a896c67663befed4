# type: ignore  (Triton's language is not Python: pyright cannot type it)
# ruff: noqa: RUF005  (and it has no unpacking)
"""First kernel of the selective scan: the state at the end of every chunk.

The recurrence is h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t, y_t = C_t . h_t + D x_t, gated by silu(z_t).
Length is cut into chunks that run in parallel. `chunk_state_kernel` runs every chunk from zero and keeps only
its last state; `chunk_scan_kernel` (`triton_chunks`) turns these into the state that enters each chunk;
`output_kernel` (`triton_outputs`) runs every chunk again, from there. The decay over a chunk is exp(A * sum
of dt), so no product is ever accumulated.

In every kernel the lanes of a program are channels and time is a loop. The N states of a channel are a tuple
of N vectors in registers, never a 2-D tile: no shuffle, no barrier, no shared memory. Names: `p_` pointers,
`s_` their strides, `i_` indices of the program, `d` channels, `n` states, capitals compile-time constants.
"""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.selective_scan.triton_lanes import (
    TOUCHED,
    absorb,
    as_numbers,
    block_of_channels,
    due,
    fetch_lanes,
    fetch_row,
    full_numbers,
    load_numbers,
    load_rates,
    locate_chunk,
    open_lanes,
    open_row,
    pour,
    state_masks,
    store_numbers,
    touch,
    unpack_row,
)
from bioaudio_kernels.selective_scan.triton_math import advance, step_size
from bioaudio_kernels.triton_jit import jit
from bioaudio_kernels.triton_vectors import lane_mask, load_lanes


@jit
def fetch_states(
    t, x, dt, B, mask, s_B, n_valid,
    UNROLL: tl.constexpr, COUNT: tl.constexpr, PACK: tl.constexpr, MASK_N: tl.constexpr,
):  # fmt: skip
    """What UNROLL steps of the state need, as it lies in memory."""
    steps = ()
    for u in tl.static_range(UNROLL):
        row = ()
        if len(B) > 0:
            row = fetch_row(B, t + u, s_B[3], n_valid, COUNT, PACK, MASK_N)
        steps = steps + ((fetch_lanes(x, t + u, mask), fetch_lanes(dt, t + u, mask), row),)
    return steps


@jit
def ready_states(steps, bias, SOFTPLUS: tl.constexpr):
    """For each step dt, dt x and the row of B."""
    ready = ()
    for u in tl.static_range(len(steps)):
        dt = step_size(steps[u][1].to(tl.float32) + bias, SOFTPLUS)
        ready = ready + ((dt, dt * steps[u][0].to(tl.float32), steps[u][2]),)
    return ready


@jit(do_not_specialize=["n_chunks", "chunk", "length"])
def chunk_state_kernel(
    p_x, s_x, p_dt, s_dt, p_A, s_A, p_B, s_B, p_bias, p_states, p_sigma, p_chunks, n_chunks, chunk, length,
    group_size, d_inner,
    N: tl.constexpr, NB: tl.constexpr, PARTS: tl.constexpr, BLOCK_D: tl.constexpr, UNROLL: tl.constexpr,
    PACK: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr, EVEN_D: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """State at the end of every chunk but a sequence's last, from a zero state, and the chunk's sum of dt.

    Grid: (channel blocks * state blocks * chunks,), channel blocks fastest. Writes states (chunks, N, PARTS,
    d_inner) and sigma (chunks, d_inner). A two-dimensional B, s_B its strides, is constant in time.
    """
    INT: tl.constexpr = tl.int64 if WIDE else tl.int32
    MASK_N: tl.constexpr = N % NB != 0
    COUNT: tl.constexpr = NB * PARTS
    n_blocks_n: tl.constexpr = (N + NB - 1) // NB
    n_blocks_d = d_inner // group_size * tl.cdiv(group_size, BLOCK_D)
    pid = tl.program_id(0)
    i_n = (pid // n_blocks_d) % n_blocks_n
    i_c = (pid // n_blocks_d // n_blocks_n).to(tl.int64)
    i_b, first, steps, _, last = locate_chunk(p_chunks, i_c, n_chunks, chunk, length, REVERSE)
    if last | (steps == 0):
        return

    group, d0, d, end = block_of_channels(pid % n_blocks_d, group_size, BLOCK_D)
    mask = lane_mask(d, end, EVEN_D)
    n0 = i_n * NB
    masks = state_masks(mask, d, end, N - n0, NB, MASK_N)
    n_valid = (N - n0) * PARTS
    bias = 0.0 if p_bias is None else load_lanes(p_bias + d, mask)
    rates = load_rates(p_A, s_A, d, n0, masks, PARTS)
    h = full_numbers(0.0, NB, PARTS, BLOCK_D)
    sigma = tl.zeros([BLOCK_D], tl.float32)
    x = open_lanes(p_x, s_x, i_b, first, d0, d, end, REVERSE, BLOCK_D)
    dt = open_lanes(p_dt, s_dt, i_b, first, d0, d, end, REVERSE, BLOCK_D)
    B = ()
    if len(s_B) == 2:
        B_t = load_numbers(p_B + d * s_B[0] + n0 * PARTS * s_B[1], s_B[1], masks, PARTS)
    else:
        B = open_row(p_B, s_B, i_b, first, group, n0 * PARTS, n_valid, REVERSE, COUNT)
    streams = (x, dt, B)
    sink = tl.zeros([32], tl.float32)
    touched = touch(streams, 0, steps)
    for t in range(0, chunk, UNROLL):
        now = fetch_states(tl.cast(t, INT), x, dt, B, mask, s_B, n_valid, UNROLL, COUNT, PACK, MASK_N)
        now = ready_states(now, bias, SOFTPLUS)
        if due(t):
            sink = absorb(sink, touched)
            touched = touch(streams, tl.cast(t, INT) + TOUCHED, steps)
        for u in tl.static_range(UNROLL):
            sigma += now[u][0]
            if len(s_B) > 2:
                B_t = as_numbers(unpack_row(now[u][2], p_B.dtype.element_ty, PACK), PARTS)
            h = advance(h, now[u][0], now[u][1], B_t, rates)

    pour(p_sigma, absorb(sink, touched), steps)
    store_numbers(p_states + (i_c * N + n0) * PARTS * d_inner + d, d_inner, h, masks)
    if i_n == 0:
        tl.store(p_sigma + i_c * d_inner + d, sigma, mask=mask)
