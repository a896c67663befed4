# type: ignore  (Triton's language is not Python: pyright cannot type it)
# ruff: noqa: RUF005  (and it has no unpacking)
"""Forward kernels of the selective scan: chunk states, scan over chunks, outputs.

The recurrence is h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t, y_t = C_t . h_t + D x_t, gated by silu(z_t).
Length is cut into chunks that run in parallel. `chunk_state_kernel` runs every chunk from zero and keeps only
its last state; `chunk_scan_kernel` turns these into the state that enters each chunk; `output_kernel` runs
every chunk again, from there. The decay over a chunk is exp(A * sum of dt), so no product is ever
accumulated.

In every kernel the lanes of a program are channels and time is a loop. The N states of a channel are a tuple
of N vectors in registers, never a 2-D tile: no shuffle, no barrier, no shared memory. Names: `p_` pointers,
`s_` their strides, `i_` indices of the program, `d` channels, `n` states, capitals compile-time constants.
"""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.selective_scan.triton_math import (
    LOG2_E,
    full_states,
    lane_mask,
    load_decay,
    load_lanes,
    load_row,
    load_states,
    sigmoid,
    state_masks,
    step_size,
    store_states,
)
from bioaudio_kernels.triton_jit import jit


@jit
def chunk_state_group(
    t, h, sigma, p_x, s_x, p_dt, s_dt, p_B, s_B, decay, bias, mask, n_valid,
    UNROLL: tl.constexpr, NB: tl.constexpr, PACK: tl.constexpr, MASK_N: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """UNROLL steps of the state alone; the loads over channels are issued before the first step."""
    xs = ()
    dts = ()
    for u in tl.static_range(UNROLL):
        xs = xs + (load_lanes(p_x + (t + u) * s_x[1], mask),)
        dts = dts + (load_lanes(p_dt + (t + u) * s_dt[1], mask),)
    for u in tl.static_range(UNROLL):
        B = load_row(p_B + (t + u) * s_B[1], s_B[2], n_valid, NB, PACK, MASK_N)
        dt = step_size(dts[u] + bias, SOFTPLUS)
        sigma += dt
        dtx = dt * xs[u]
        new = ()
        for n in tl.static_range(NB):
            new = new + (tl.exp2(dt * decay[n]) * h[n] + dtx * B[n],)
        h = new
    return h, sigma


@jit(do_not_specialize=["n_chunks", "chunk"])
def chunk_state_kernel(
    p_x, s_x, p_dt, s_dt, p_A, s_A, p_B, s_B, p_bias, p_states, p_sigma, n_chunks, chunk, d_inner,
    N: tl.constexpr, NB: tl.constexpr, BLOCK_D: tl.constexpr, UNROLL: tl.constexpr,
    PACK: tl.constexpr, SOFTPLUS: tl.constexpr, EVEN_D: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """State at the end of every chunk but the last, from a zero state, and the chunk's sum of dt.

    Grid: (channel blocks * state blocks * (n_chunks - 1) * batch,), channel blocks fastest.
    Writes states (batch, n_chunks, N, d_inner) and sigma (batch, n_chunks, d_inner).
    """
    INT: tl.constexpr = tl.int64 if WIDE else tl.int32
    MASK_N: tl.constexpr = N % NB != 0
    n_blocks_n: tl.constexpr = (N + NB - 1) // NB
    n_blocks_d = tl.cdiv(d_inner, BLOCK_D)
    pid = tl.program_id(0)
    i_d = pid % n_blocks_d
    i_n = (pid // n_blocks_d) % n_blocks_n
    i_c = ((pid // n_blocks_d // n_blocks_n) % (n_chunks - 1)).to(tl.int64)
    i_b = (pid // n_blocks_d // n_blocks_n // (n_chunks - 1)).to(tl.int64)

    d = (i_d * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    mask = lane_mask(d, d_inner, EVEN_D)
    n0 = i_n * NB
    masks = state_masks(mask, d, d_inner, N - n0, NB, MASK_N)
    bias = 0.0 if p_bias is None else load_lanes(p_bias + d, mask)
    decay = load_decay(p_A, s_A, d, n0, masks, NB)
    h = full_states(0.0, NB, BLOCK_D)
    sigma = tl.zeros([BLOCK_D], tl.float32)
    t0 = i_c * chunk
    p_x += i_b * s_x[0] + t0 * s_x[1] + d * s_x[2]
    p_dt += i_b * s_dt[0] + t0 * s_dt[1] + d * s_dt[2]
    p_B += i_b * s_B[0] + t0 * s_B[1] + n0 * s_B[2]
    for t in range(0, chunk, UNROLL):
        h, sigma = chunk_state_group(
            tl.cast(t, INT), h, sigma, p_x, s_x, p_dt, s_dt, p_B, s_B, decay, bias, mask, N - n0,
            UNROLL, NB, PACK, MASK_N, SOFTPLUS,
        )  # fmt: skip

    i_bc = i_b * n_chunks + i_c
    store_states(p_states + (i_bc * N + n0) * d_inner + d, d_inner, h, masks, NB)
    if i_n == 0:
        tl.store(p_sigma + i_bc * d_inner + d, sigma, mask=mask)


@jit(do_not_specialize=["n_chunks"])
def chunk_scan_kernel(
    p_states, p_sigma, p_A, s_A, p_start, s_start, p_end, s_end, n_chunks, d_inner,
    N: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Replace each chunk's own contribution by what enters it: carry <- exp(A sigma) carry + own.

    Runs from `start` (None: zeros) over chunks in order, or from the last to the first with REVERSE
    (adjoints); what leaves the last of them goes to `end` unless that is None. Grid: (channel blocks * N *
    batch,). ROWS chunks are loaded at a time, so that the latency of memory is paid once for all of them.
    """
    n_blocks_d = tl.cdiv(d_inner, BLOCK_D)
    pid = tl.program_id(0)
    d = ((pid % n_blocks_d) * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    n = (pid // n_blocks_d) % N
    i_b = (pid // n_blocks_d // N).to(tl.int64)
    mask = d < d_inner
    decay = load_lanes(p_A + d * s_A[0] + n * s_A[1], mask) * LOG2_E
    if p_start is None:
        carry = tl.zeros([BLOCK_D], tl.float32)
    else:
        carry = load_lanes(p_start + i_b * s_start[0] + d * s_start[1] + n * s_start[2], mask)
    step = tl.cast(d_inner, tl.int64) * (-1 if REVERSE else 1)
    first = i_b * n_chunks + (n_chunks - 1 if REVERSE else 0)
    p_sigma += first * d_inner + d
    p_states += (first * N + n) * d_inner + d
    for i in range(0, n_chunks, ROWS):
        own = ()
        sigma = ()
        for r in tl.static_range(ROWS):
            exists = d < tl.where(i + r < n_chunks, d_inner, 0)
            own = own + (load_lanes(p_states + r * step * N, exists),)
            sigma = sigma + (load_lanes(p_sigma + r * step, exists),)
        for r in tl.static_range(ROWS):
            tl.store(p_states + r * step * N, carry, mask=d < tl.where(i + r < n_chunks, d_inner, 0))
            # Past the end own and sigma are 0: the carry stays.
            carry = tl.exp2(sigma[r] * decay) * carry + own[r]
        p_states += ROWS * step * N
        p_sigma += ROWS * step
    if p_end is not None:
        tl.store(p_end + i_b * s_end[0] + d * s_end[1] + n * s_end[2], carry, mask=mask)


@jit
def output_group(
    t, h, p_x, s_x, p_dt, s_dt, p_B, s_B, p_C, s_C, p_z, s_z, p_y, p_sum, d_inner, decay, bias, skip, mask,
    n_valid,
    UNROLL: tl.constexpr, NB: tl.constexpr, PACK: tl.constexpr, MASK_N: tl.constexpr, SOFTPLUS: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """UNROLL steps with their outputs; the loads over channels are issued before the first step."""
    GATED: tl.constexpr = LAST and p_z is not None
    xs = ()
    dts = ()
    zs = ()
    sums = ()
    for u in tl.static_range(UNROLL):
        xs = xs + (load_lanes(p_x + (t + u) * s_x[1], mask),)
        dts = dts + (load_lanes(p_dt + (t + u) * s_dt[1], mask),)
        if GATED:
            zs = zs + (load_lanes(p_z + (t + u) * s_z[1], mask),)
        if not FIRST:
            sums = sums + (load_lanes(p_sum + (t + u) * d_inner, mask),)
    ys = ()
    for u in tl.static_range(UNROLL):
        B = load_row(p_B + (t + u) * s_B[1], s_B[2], n_valid, NB, PACK, MASK_N)
        C = load_row(p_C + (t + u) * s_C[1], s_C[2], n_valid, NB, PACK, MASK_N)
        dt = step_size(dts[u] + bias, SOFTPLUS)
        dtx = dt * xs[u]
        y = skip * xs[u] if FIRST else sums[u]
        new = ()
        for n in tl.static_range(NB):
            new = new + (tl.exp2(dt * decay[n]) * h[n] + dtx * B[n],)
            y += C[n] * new[n]
        h = new
        if GATED:
            y = y * (zs[u] * sigmoid(zs[u]))
        ys = ys + (y,)
    p_out = p_y if LAST else p_sum
    for u in tl.static_range(UNROLL):
        tl.store(p_out + (t + u) * d_inner, ys[u], mask=mask)
    return h


@jit(do_not_specialize=["i_n", "n_chunks", "chunk", "length"])
def output_kernel(
    p_x, s_x, p_dt, s_dt, p_A, s_A, p_B, s_B, p_C, s_C, p_D, p_z, s_z, p_bias, p_h, s_h, p_y, p_final, p_sum,
    i_n, n_chunks, chunk, length, d_inner,
    N: tl.constexpr, NB: tl.constexpr, BLOCK_D: tl.constexpr, UNROLL: tl.constexpr,
    PACK: tl.constexpr, SOFTPLUS: tl.constexpr, EVEN_D: tl.constexpr, WIDE: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """y over every chunk, from the state `h` that enters it, and the final state from the last chunk.

    Grid: (channel blocks * n_chunks * batch,), channel blocks fastest. `h` is read through its strides
    (batch, chunk, state, channel); None is zeros. More than NB states take one launch per block i_n of
    states: the FIRST starts y in the fp32 scratch `sum`, the LAST gates it and writes y.
    """
    INT: tl.constexpr = tl.int64 if WIDE else tl.int32
    MASK_N: tl.constexpr = N % NB != 0
    n_blocks_d = tl.cdiv(d_inner, BLOCK_D)
    pid = tl.program_id(0)
    i_c = ((pid // n_blocks_d) % n_chunks).to(tl.int64)
    i_b = (pid // n_blocks_d // n_chunks).to(tl.int64)

    d = ((pid % n_blocks_d) * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    mask = lane_mask(d, d_inner, EVEN_D)
    n0 = i_n * NB
    masks = state_masks(mask, d, d_inner, N - n0, NB, MASK_N)
    bias = 0.0 if p_bias is None else load_lanes(p_bias + d, mask)
    skip = 0.0 if p_D is None else load_lanes(p_D + d, mask)
    decay = load_decay(p_A, s_A, d, n0, masks, NB)
    if p_h is None:
        h = full_states(0.0, NB, BLOCK_D)
    else:
        h = load_states(p_h + i_b * s_h[0] + i_c * s_h[1] + n0 * s_h[2] + d * s_h[3], s_h[2], masks, NB)
    t0 = i_c * chunk
    p_x += i_b * s_x[0] + t0 * s_x[1] + d * s_x[2]
    p_dt += i_b * s_dt[0] + t0 * s_dt[1] + d * s_dt[2]
    p_B += i_b * s_B[0] + t0 * s_B[1] + n0 * s_B[2]
    p_C += i_b * s_C[0] + t0 * s_C[1] + n0 * s_C[2]
    if p_z is not None:
        p_z += i_b * s_z[0] + t0 * s_z[1] + d * s_z[2]
    p_y += (i_b * length + t0) * d_inner + d
    if p_sum is not None:
        p_sum += (i_b * length + t0) * d_inner + d

    steps = tl.minimum(length - t0, chunk).to(tl.int32)
    whole = steps // UNROLL * UNROLL
    for t in range(0, whole, UNROLL):
        h = output_group(
            tl.cast(t, INT), h, p_x, s_x, p_dt, s_dt, p_B, s_B, p_C, s_C, p_z, s_z, p_y, p_sum, d_inner,
            decay, bias, skip, mask, N - n0, UNROLL, NB, PACK, MASK_N, SOFTPLUS, FIRST, LAST,
        )  # fmt: skip
    if UNROLL > 1:
        for t in range(whole, steps):
            h = output_group(
                tl.cast(t, INT), h, p_x, s_x, p_dt, s_dt, p_B, s_B, p_C, s_C, p_z, s_z, p_y, p_sum, d_inner,
                decay, bias, skip, mask, N - n0, 1, NB, PACK, MASK_N, SOFTPLUS, FIRST, LAST,
            )  # fmt: skip
    if i_c == n_chunks - 1:
        store_states(p_final + (i_b * N + n0) * d_inner + d, d_inner, h, masks, NB)
