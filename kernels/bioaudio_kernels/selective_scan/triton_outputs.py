# type: ignore  (Triton's language is not Python: pyright cannot type it)
# ruff: noqa: RUF005  (and it has no unpacking)
"""Last kernel of the forward pass of the selective scan: outputs, from the state that enters every chunk.

See `triton_states`.
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
from bioaudio_kernels.selective_scan.triton_math import advance, product_real, step_size
from bioaudio_kernels.triton_jit import jit
from bioaudio_kernels.triton_vectors import lane_mask, load_lanes, sigmoid


@jit
def fetch_outputs(
    t, x, dt, B, C, z, sums, mask, s_B, s_C, n_valid,
    UNROLL: tl.constexpr, COUNT: tl.constexpr, PACK: tl.constexpr, MASK_N: tl.constexpr,
):  # fmt: skip
    """What UNROLL steps need, as it lies in memory."""
    steps = ()
    for u in tl.static_range(UNROLL):
        row_B = ()
        row_C = ()
        gate = ()
        total = ()
        if len(B) > 0:
            row_B = fetch_row(B, t + u, s_B[3], n_valid, COUNT, PACK, MASK_N)
        if len(C) > 0:
            row_C = fetch_row(C, t + u, s_C[3], n_valid, COUNT, PACK, MASK_N)
        if len(z) > 0:
            gate = (fetch_lanes(z, t + u, mask),)
        if len(sums) > 0:
            total = (fetch_lanes(sums, t + u, mask),)
        lanes = (fetch_lanes(x, t + u, mask), fetch_lanes(dt, t + u, mask))
        steps = steps + (lanes + (row_B, row_C, gate, total),)
    return steps


@jit
def ready_outputs(steps, bias, skip, SOFTPLUS: tl.constexpr):
    """For each step dt, dt x, the rows of B and C, silu(z) and the output without the states."""
    ready = ()
    for u in tl.static_range(len(steps)):
        x = steps[u][0].to(tl.float32)
        dt = step_size(steps[u][1].to(tl.float32) + bias, SOFTPLUS)
        gate = ()
        if len(steps[u][4]) > 0:
            z = steps[u][4][0].to(tl.float32)
            gate = (z * sigmoid(z),)
        y = skip * x if len(steps[u][5]) == 0 else steps[u][5][0]
        ready = ready + ((dt, dt * x, steps[u][2], steps[u][3], gate, y),)
    return ready


@jit
def output_steps(
    t, h, steps, out, B_t, C_t, rates, mask,
    B_TYPE: tl.constexpr, C_TYPE: tl.constexpr, PARTS: tl.constexpr, PACK: tl.constexpr,
):  # fmt: skip
    """Steps that are ready, and their outputs stored. The states of a complex scan stand for two each."""
    for u in tl.static_range(len(steps)):
        dt, dtx, row_B, row_C, gate, y = steps[u]
        if len(row_B) > 0:
            B_t = as_numbers(unpack_row(row_B, B_TYPE, PACK), PARTS)
        if len(row_C) > 0:
            C_t = as_numbers(unpack_row(row_C, C_TYPE, PACK), PARTS)
        h = advance(h, dt, dtx, B_t, rates)
        if PARTS == 1:
            for n in tl.static_range(len(h)):
                y += product_real(C_t[n], h[n])
        else:
            pairs = tl.zeros_like(y)
            for n in tl.static_range(len(h)):
                pairs += product_real(C_t[n], h[n])
            y += 2.0 * pairs
        if len(gate) > 0:
            y = y * gate[0]
        tl.store(out[0] + (t + u) * out[1], y, mask=mask)
    return h


@jit(do_not_specialize=["i_n", "n_chunks", "chunk", "length"])
def output_kernel(
    p_x, s_x, p_dt, s_dt, p_A, s_A, p_B, s_B, p_C, s_C, p_D, p_z, s_z, p_bias, p_states, p_y, s_y,
    p_final, p_sum, p_chunks, i_n, n_chunks, chunk, length, group_size, d_inner,
    N: tl.constexpr, NB: tl.constexpr, PARTS: tl.constexpr, BLOCK_D: tl.constexpr, UNROLL: tl.constexpr,
    PACK: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr, EVEN_D: tl.constexpr,
    WIDE: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """y over every chunk, from the state that enters it, and each sequence's final state from its last chunk.

    Grid: (channel blocks * chunks,), channel blocks fastest. More than NB states take one launch per block
    i_n of states: the FIRST starts y in the fp32 scratch `sum`, the LAST gates it and writes y.
    """
    INT: tl.constexpr = tl.int64 if WIDE else tl.int32
    MASK_N: tl.constexpr = N % NB != 0
    COUNT: tl.constexpr = NB * PARTS
    B_TYPE: tl.constexpr = p_B.dtype.element_ty
    C_TYPE: tl.constexpr = p_C.dtype.element_ty
    n_blocks_d = d_inner // group_size * tl.cdiv(group_size, BLOCK_D)
    pid = tl.program_id(0)
    i_c = (pid // n_blocks_d).to(tl.int64)
    i_b, first, steps, sequence, last = locate_chunk(p_chunks, i_c, n_chunks, chunk, length, REVERSE)

    group, d0, d, end = block_of_channels(pid % n_blocks_d, group_size, BLOCK_D)
    mask = lane_mask(d, end, EVEN_D)
    n0 = i_n * NB
    masks = state_masks(mask, d, end, N - n0, NB, MASK_N)
    n_valid = (N - n0) * PARTS
    bias = 0.0 if p_bias is None else load_lanes(p_bias + d, mask)
    skip = 0.0 if p_D is None else load_lanes(p_D + d, mask)
    rates = load_rates(p_A, s_A, d, n0, masks, PARTS)
    h = load_numbers(p_states + (i_c * N + n0) * PARTS * d_inner + d, d_inner, masks, PARTS)
    x = open_lanes(p_x, s_x, i_b, first, d0, d, end, REVERSE, BLOCK_D)
    dt = open_lanes(p_dt, s_dt, i_b, first, d0, d, end, REVERSE, BLOCK_D)
    y = open_lanes(p_y, s_y, i_b, first, d0, d, end, REVERSE, BLOCK_D)
    z = ()
    if LAST:
        z = open_lanes(p_z, s_z, i_b, first, d0, d, end, REVERSE, BLOCK_D)
    total = open_lanes(p_sum, s_y, i_b, first, d0, d, end, REVERSE, BLOCK_D)
    out = y if LAST else total
    sums = () if FIRST else total
    B = ()
    C = ()
    B_t = ()
    C_t = ()
    if len(s_B) == 2:
        B_t = load_numbers(p_B + d * s_B[0] + n0 * PARTS * s_B[1], s_B[1], masks, PARTS)
    else:
        B = open_row(p_B, s_B, i_b, first, group, n0 * PARTS, n_valid, REVERSE, COUNT)
    if len(s_C) == 2:
        C_t = load_numbers(p_C + d * s_C[0] + n0 * PARTS * s_C[1], s_C[1], masks, PARTS)
    else:
        C = open_row(p_C, s_C, i_b, first, group, n0 * PARTS, n_valid, REVERSE, COUNT)

    streams = (x, dt, z, B, C)
    whole = steps // UNROLL * UNROLL
    sink = tl.zeros([32], tl.float32)
    touched = touch(streams, 0, steps)
    for t in range(0, whole, UNROLL):
        now = fetch_outputs(
            tl.cast(t, INT), x, dt, B, C, z, sums, mask, s_B, s_C, n_valid, UNROLL, COUNT, PACK, MASK_N
        )
        now = ready_outputs(now, bias, skip, SOFTPLUS)
        if due(t):
            sink = absorb(sink, touched)
            touched = touch(streams, tl.cast(t, INT) + TOUCHED, steps)
        h = output_steps(tl.cast(t, INT), h, now, out, B_t, C_t, rates, mask, B_TYPE, C_TYPE, PARTS, PACK)
    if UNROLL > 1:
        for t in range(whole, steps):
            now = fetch_outputs(
                tl.cast(t, INT), x, dt, B, C, z, sums, mask, s_B, s_C, n_valid, 1, COUNT, PACK, MASK_N
            )
            now = ready_outputs(now, bias, skip, SOFTPLUS)
            h = output_steps(tl.cast(t, INT), h, now, out, B_t, C_t, rates, mask, B_TYPE, C_TYPE, PARTS, PACK)
    pour(p_final, absorb(sink, touched), steps)
    if last:
        store_numbers(p_final + (sequence * N + n0) * PARTS * d_inner + d, d_inner, h, masks)
