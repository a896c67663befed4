# type: ignore  (Triton's language is not Python: pyright cannot type it)
# ruff: noqa: RUF005  (and it has no unpacking)
"""Second half of the backward pass of the selective scan: all that needs the gradient dh at the states.

It goes back in time and completes the sums begun by the forward sweep; see `triton_forward_sweep`.
"""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.selective_scan.triton_forward_sweep import fetch_rows
from bioaudio_kernels.selective_scan.triton_lanes import (
    TOUCHED,
    absorb,
    as_numbers,
    block_of_channels,
    due,
    fetch_lanes,
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
from bioaudio_kernels.selective_scan.triton_math import (
    LN_2,
    exp_minus_abs,
    number_decay,
    number_product,
    number_sum,
    rate_product,
    scaled,
    softplus_from,
    sum_in_lanes,
    sum_over_lanes,
)
from bioaudio_kernels.triton_jit import jit
from bioaudio_kernels.triton_vectors import lane_mask, load_lanes, reciprocal, sigmoid


@jit
def fetch_reverse(t, x, dt, dy, z, r, mask):
    """x, dt, dy, z and r of a step, as they lie in memory."""
    gate = ()
    sums = ()
    if len(z) > 0:
        gate = (fetch_lanes(z, t, mask),)
    if len(r) > 0:
        sums = (fetch_lanes(r, t, mask),)
    return fetch_lanes(x, t, mask), fetch_lanes(dt, t, mask), fetch_lanes(dy, t, mask), gate, sums


@jit
def ready_reverse(step, bias, SOFTPLUS: tl.constexpr):
    """x, dt, the softplus's slope, g and r of a step."""
    x, raw, dy, gate, sums = step
    raw = raw.to(tl.float32) + bias
    g = dy.to(tl.float32)
    if len(gate) > 0:
        z = gate[0].to(tl.float32)
        g = g * (z * sigmoid(z))
    if SOFTPLUS:
        e = exp_minus_abs(raw)
        slope = tl.where(raw >= 0, 1.0, e) * reciprocal(1.0 + e)
        return x.to(tl.float32), softplus_from(raw, e), slope, g, sums
    else:
        return x.to(tl.float32), raw, 1.0, g, sums


@jit(do_not_specialize=["i_n", "chunk_0", "chunks", "n_chunks", "chunk", "length"])
def reverse_sweep_kernel(
    p_x, s_x, p_dt, s_dt, p_A, s_A, p_B, s_B, p_C, s_C, p_D, p_z, s_z, p_bias, p_dy, s_dy,
    p_r, p_dh, p_end, p_S, p_dx, s_dx, p_ddt, s_ddt, p_sum_x, p_sum_dt, p_dB, p_dA, p_dbias,
    p_chunks, i_n, chunk_0, chunks, n_chunks, chunk, length, group_size, d_inner,
    N: tl.constexpr, NB: tl.constexpr, PARTS: tl.constexpr, COUNT: tl.constexpr, SUB: tl.constexpr,
    BLOCK_D: tl.constexpr, PACK: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr,
    EVEN_D: tl.constexpr, WIDE: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr,
    ADJOINT: tl.constexpr,
):  # fmt: skip
    """dx, ddt, dB, the rest of dA, and dbias.

    `dh` holds, per chunk, the gradient at the state that leaves it; in the loop it is what step t hands to
    step t - 1, the decay included. Without ADJOINT there is no chunk before: dh ends as the gradient at the
    initial state, in its place. Grid, buffers and blocks of states as in `forward_sweep_kernel`.
    """
    INT: tl.constexpr = tl.int64 if WIDE else tl.int32
    MASK_N: tl.constexpr = N % NB != 0
    VALUES: tl.constexpr = NB * PARTS
    B_TYPE: tl.constexpr = p_B.dtype.element_ty
    C_TYPE: tl.constexpr = p_C.dtype.element_ty
    n_blocks_d = d_inner // group_size * tl.cdiv(group_size, BLOCK_D)
    pid = tl.program_id(0)
    i_d = pid % n_blocks_d
    i_c = (pid // n_blocks_d).to(tl.int64)
    i_b, first, steps, _, _ = locate_chunk(p_chunks, chunk_0 + i_c, n_chunks, chunk, length, REVERSE)

    group, d0, d, stop = block_of_channels(i_d, group_size, BLOCK_D)
    mask = lane_mask(d, stop, EVEN_D)
    n0 = i_n * NB
    masks = state_masks(mask, d, stop, N - n0, NB, MASK_N)
    n_valid = (N - n0) * PARTS
    bias = 0.0 if p_bias is None else load_lanes(p_bias + d, mask)
    skip = 0.0 if p_D is None else load_lanes(p_D + d, mask)
    rates = load_rates(p_A, s_A, d, n0, masks, PARTS)
    chunk_states = (i_c * N + n0) * PARTS * d_inner + d
    dh = load_numbers(p_dh + chunk_states, d_inner, masks, PARTS)
    dA = load_numbers(p_dA + chunk_states, d_inner, masks, PARTS)
    zeros = tl.zeros([BLOCK_D], tl.float32)
    dbias = zeros
    x = open_lanes(p_x, s_x, i_b, first, d0, d, stop, REVERSE, BLOCK_D)
    dt = open_lanes(p_dt, s_dt, i_b, first, d0, d, stop, REVERSE, BLOCK_D)
    dy = open_lanes(p_dy, s_dy, i_b, first, d0, d, stop, REVERSE, BLOCK_D)
    z = open_lanes(p_z, s_z, i_b, first, d0, d, stop, REVERSE, BLOCK_D)
    dx = open_lanes(p_dx, s_dx, i_b, first, d0, d, stop, REVERSE, BLOCK_D)
    ddt = open_lanes(p_ddt, s_ddt, i_b, first, d0, d, stop, REVERSE, BLOCK_D)
    B = ()
    C = ()
    dB_sum = ()
    if len(s_B) == 2:
        B_t = load_numbers(p_B + d * s_B[0] + n0 * PARTS * s_B[1], s_B[1], masks, PARTS)
        dB_sum = full_numbers(0.0, NB, PARTS, BLOCK_D)
    else:
        B = open_row(p_B, s_B, i_b, first, group, n0 * PARTS, n_valid, REVERSE, VALUES)
    if len(s_C) == 2:
        C_t = load_numbers(p_C + d * s_C[0] + n0 * PARTS * s_C[1], s_C[1], masks, PARTS)
    else:
        C = open_row(p_C, s_C, i_b, first, group, n0 * PARTS, n_valid, REVERSE, VALUES)
    r = ()
    if FIRST:
        r = open_lanes(p_r, (0, d_inner, 1), i_c * 0, i_c * chunk, d0, d, stop, False, BLOCK_D)
    if p_sum_x is not None:
        p_sum_x += i_c * chunk * d_inner + d
        p_sum_dt += i_c * chunk * d_inner + d
    lane = tl.arange(0, 32)
    row_mask = lane < (tl.minimum(n_valid, VALUES) if MASK_N else VALUES)
    row = p_dB + (i_d * chunks + i_c) * chunk * (N * PARTS) + n0 * PARTS + lane

    streams = (x, dt, dy, z, B, C, r)
    sink = tl.zeros([32], tl.float32)
    touched = touch(streams, tl.maximum(steps - TOUCHED, 0), steps)
    n_subs = tl.cdiv(steps, SUB)
    ahead = fetch_reverse(tl.cast(tl.maximum(steps - 1, 0), INT), x, dt, dy, z, r, mask)
    rows = fetch_rows(tl.cast(tl.maximum(steps - 1, 0), INT), B, C, s_B, s_C, n_valid, VALUES, PACK, MASK_N)
    for j in range(0, n_subs):
        i_sub = n_subs - 1 - j
        at = i_c * (chunk // SUB) + i_sub
        S = load_lanes(p_S + at * d_inner + d, mask)
        h = load_numbers(p_end + (at * N + n0) * PARTS * d_inner + d, d_inner, masks, PARTS)
        # The sum of q over states, times A, restarts from its exact value.
        run = zeros
        new_dA = ()
        for n in tl.static_range(NB):
            q = number_product(dh[n], h[n])
            run += rate_product(rates[n], q)
            new_dA = new_dA + (number_sum(dA[n], scaled(S, q)),)
        dA = new_dA
        run = run * LN_2
        end = tl.minimum((i_sub + 1) * SUB, steps) - 1
        for i in range(0, end + 1 - i_sub * SUB):
            t = tl.cast(end - i, INT)
            now = ahead
            before = tl.maximum(t - 1, 0)
            ahead = fetch_reverse(before, x, dt, dy, z, r, mask)
            x_t, dt_t, slope, g, sums = ready_reverse(now, bias, SOFTPLUS)
            if FIRST:
                run += sums[0]
            g2 = g * PARTS
            dtx = dt_t * x_t
            Sdtx = S * dtx
            sum_B = zeros
            sum_AB = zeros
            new_dh = ()
            new_dA = ()
            dB = ()
            row_B, row_C = rows
            rows = fetch_rows(before, B, C, s_B, s_C, n_valid, VALUES, PACK, MASK_N)
            if len(row_B) > 0:
                B_t = as_numbers(unpack_row(row_B, B_TYPE, PACK), PARTS)
            if len(row_C) > 0:
                C_t = as_numbers(unpack_row(row_C, C_TYPE, PACK), PARTS)
            for n in tl.static_range(NB):
                if n == NB // 2:  # noqa: SIM102  (decided when it is compiled)
                    if due(i):
                        sink = absorb(sink, touched)
                        touched = touch(streams, tl.maximum(t - (2 * TOUCHED - 1), 0), steps)
                whole = number_sum(scaled(g2, C_t[n]), dh[n])
                Bdh = number_product(B_t[n], whole)
                sum_B += Bdh[0]
                sum_AB += rate_product(rates[n], Bdh)
                new_dA = new_dA + (number_sum(dA[n], scaled(-Sdtx, Bdh)),)
                if len(s_B) == 2:
                    dB = dB + (number_sum(dB_sum[n], scaled(dtx, whole)),)
                else:
                    dB = dB + sum_in_lanes(scaled(dtx, whole), BLOCK_D)
                new_dh = new_dh + (number_product(number_decay(dt_t, rates[n]), whole),)
            dh = new_dh
            dA = new_dA
            if len(s_B) == 2:
                dB_sum = dB
            else:
                tl.store(row + t * (N * PARTS), sum_over_lanes(dB, COUNT), mask=row_mask)
            S -= dt_t
            run -= dtx * sum_AB * LN_2
            dx_t = dt_t * sum_B
            ddt_t = x_t * sum_B + run
            if FIRST:
                dx_t += skip * g
            else:
                dx_t += load_lanes(p_sum_x + t * d_inner, mask)
                ddt_t += load_lanes(p_sum_dt + t * d_inner, mask)
            if LAST:
                ddt_t = ddt_t * slope
                dbias += ddt_t
                tl.store(dx[0] + t * dx[1], dx_t, mask=mask)
                tl.store(ddt[0] + t * ddt[1], ddt_t, mask=mask)
            else:
                tl.store(p_sum_x + t * d_inner, dx_t, mask=mask)
                tl.store(p_sum_dt + t * d_inner, ddt_t, mask=mask)

    pour(p_S, absorb(sink, touched), steps)
    store_numbers(p_dA + chunk_states, d_inner, dA, masks)
    if not ADJOINT:
        store_numbers(p_dh + chunk_states, d_inner, dh, masks)
    if len(s_B) == 2:
        store_numbers(p_dB + chunk_states, d_inner, dB_sum, masks)
    if LAST:
        tl.store(p_dbias + i_c * d_inner + d, dbias, mask=mask)
