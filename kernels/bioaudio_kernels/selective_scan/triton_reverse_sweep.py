# type: ignore  (Triton's language is not Python: pyright cannot type it)
# ruff: noqa: RUF005  (and it has no unpacking)
"""Second half of the backward pass of the selective scan: all that needs the gradient dh at the states.

It goes back in time and completes the sums begun by the forward sweep; see `triton_forward_sweep`.
"""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.selective_scan.triton_math import (
    LN_2,
    exp_minus_abs,
    lane_mask,
    load_decay,
    load_lanes,
    load_row,
    load_states,
    reciprocal,
    sigmoid,
    softplus_from,
    state_masks,
    store_states,
    sum_over_channels,
)
from bioaudio_kernels.triton_jit import jit


@jit(do_not_specialize=["i_n", "chunk_0", "n_chunks", "chunk", "batch", "length"])
def reverse_sweep_kernel(
    p_x, s_x, p_dt, s_dt, p_A, s_A, p_B, s_B, p_C, s_C, p_D, p_z, s_z, p_bias, p_dy, s_dy,
    p_r, p_dh, p_end, p_S, p_dx, p_ddt, p_sum_x, p_sum_dt, p_dB, p_dA, p_dbias,
    i_n, chunk_0, n_chunks, chunk, batch, length, d_inner,
    N: tl.constexpr, NB: tl.constexpr, COUNT: tl.constexpr, SUB: tl.constexpr,
    BLOCK_D: tl.constexpr, PACK: tl.constexpr, SOFTPLUS: tl.constexpr, EVEN_D: tl.constexpr, WIDE:
    tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """dx, ddt, rows of dB, the rest of dA, and dbias.

    `dh` holds, per chunk, the gradient at the state that leaves it; in the loop it is what step t hands to
    step t - 1, the decay included. Grid, buffers and blocks of states as in `forward_sweep_kernel`.
    """
    INT: tl.constexpr = tl.int64 if WIDE else tl.int32
    MASK_N: tl.constexpr = N % NB != 0
    n_blocks_d = tl.cdiv(d_inner, BLOCK_D)
    pid = tl.program_id(0)
    i_d = pid % n_blocks_d
    i_c = ((pid // n_blocks_d) % n_chunks).to(tl.int64)
    i_b = (pid // n_blocks_d // n_chunks).to(tl.int64)
    i_bc = i_b * n_chunks + i_c

    d = (i_d * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    mask = lane_mask(d, d_inner, EVEN_D)
    n0 = i_n * NB
    masks = state_masks(mask, d, d_inner, N - n0, NB, MASK_N)
    lane = tl.arange(0, 32)
    row_mask = lane < (tl.minimum(N - n0, NB) if MASK_N else NB)
    bias = 0.0 if p_bias is None else load_lanes(p_bias + d, mask)
    skip = 0.0 if p_D is None else load_lanes(p_D + d, mask)
    decay = load_decay(p_A, s_A, d, n0, masks, NB)
    chunk_states = (i_bc * N + n0) * d_inner + d
    dh = load_states(p_dh + chunk_states, d_inner, masks, NB)
    dA = load_states(p_dA + chunk_states, d_inner, masks, NB)
    zeros = tl.zeros([BLOCK_D], tl.float32)
    dbias = zeros

    t0 = (chunk_0 + i_c) * chunk
    p_x += i_b * s_x[0] + t0 * s_x[1] + d * s_x[2]
    p_dt += i_b * s_dt[0] + t0 * s_dt[1] + d * s_dt[2]
    p_B += i_b * s_B[0] + t0 * s_B[1] + n0 * s_B[2]
    p_C += i_b * s_C[0] + t0 * s_C[1] + n0 * s_C[2]
    p_dy += i_b * s_dy[0] + t0 * s_dy[1] + d * s_dy[2]
    if p_z is not None:
        p_z += i_b * s_z[0] + t0 * s_z[1] + d * s_z[2]
    p_dx += (i_b * length + t0) * d_inner + d
    p_ddt += (i_b * length + t0) * d_inner + d
    p_r += i_bc * chunk * d_inner + d
    if p_sum_x is not None:
        p_sum_x += i_bc * chunk * d_inner + d
        p_sum_dt += i_bc * chunk * d_inner + d
    p_dB += ((i_d * batch + i_b) * n_chunks + i_c) * chunk * N + n0 + lane

    steps = tl.minimum(length - t0, chunk).to(tl.int32)
    n_subs = tl.cdiv(steps, SUB)
    for j in range(0, n_subs):
        i_sub = n_subs - 1 - j
        at = i_bc * (chunk // SUB) + i_sub
        S = load_lanes(p_S + at * d_inner + d, mask)
        h = load_states(p_end + (at * N + n0) * d_inner + d, d_inner, masks, NB)
        # The sum of q over states, times A, restarts from its exact value.
        run = zeros
        new_dA = ()
        for n in tl.static_range(NB):
            q = dh[n] * h[n]
            run += decay[n] * q
            new_dA = new_dA + (dA[n] + S * q,)
        dA = new_dA
        run = run * LN_2
        last = tl.minimum((i_sub + 1) * SUB, steps) - 1
        for i in range(0, last + 1 - i_sub * SUB):
            t = tl.cast(last - i, INT)
            x = load_lanes(p_x + t * s_x[1], mask)
            raw = load_lanes(p_dt + t * s_dt[1], mask) + bias
            g = load_lanes(p_dy + t * s_dy[1], mask)
            if p_z is not None:
                z = load_lanes(p_z + t * s_z[1], mask)
                g = g * (z * sigmoid(z))
            if FIRST:
                run += load_lanes(p_r + t * d_inner, mask)
            B = load_row(p_B + t * s_B[1], s_B[2], N - n0, NB, PACK, MASK_N)
            C = load_row(p_C + t * s_C[1], s_C[2], N - n0, NB, PACK, MASK_N)
            if SOFTPLUS:
                e = exp_minus_abs(raw)
                dt = softplus_from(raw, e)
                slope = tl.where(raw >= 0, 1.0, e) * reciprocal(1.0 + e)
            else:
                dt = raw
                slope = 1.0
            dtx = dt * x
            Sdtx = S * dtx
            sum_B = zeros
            sum_AB = zeros
            new_dh = ()
            new_dA = ()
            dB = ()
            for n in tl.static_range(NB):
                whole = C[n] * g + dh[n]
                Bdh = B[n] * whole
                sum_B += Bdh
                sum_AB += decay[n] * Bdh
                new_dA = new_dA + (dA[n] - Sdtx * Bdh,)
                dB = dB + (dtx * whole,)
                new_dh = new_dh + (tl.exp2(dt * decay[n]) * whole,)
            dh = new_dh
            dA = new_dA
            tl.store(p_dB + t * N, sum_over_channels(dB, NB, COUNT, BLOCK_D), mask=row_mask)
            S -= dt
            run -= dtx * sum_AB * LN_2
            dx = dt * sum_B
            ddt = x * sum_B + run
            if FIRST:
                dx += skip * g
            else:
                dx += load_lanes(p_sum_x + t * d_inner, mask)
                ddt += load_lanes(p_sum_dt + t * d_inner, mask)
            if LAST:
                ddt = ddt * slope
                dbias += ddt
                tl.store(p_dx + t * d_inner, dx, mask=mask)
                tl.store(p_ddt + t * d_inner, ddt, mask=mask)
            else:
                tl.store(p_sum_x + t * d_inner, dx, mask=mask)
                tl.store(p_sum_dt + t * d_inner, ddt, mask=mask)

    store_states(p_dA + chunk_states, d_inner, dA, masks, NB)
    if LAST:
        tl.store(p_dbias + i_bc * d_inner + d, dbias, mask=mask)
