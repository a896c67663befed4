"""Backward kernels of the selective scan: two sweeps over every chunk, one per direction.

Let h be the state, g = dy * silu(z) the gradient at C . h + D x, and dh the gradient at h. The gradient at log a_t, a the decay,
is q_t = dh_t a_t h_{t-1}: it needs h, known going forward, and dh, known going back. But q obeys

    q_t = q_{t+1} + g_t C_t h_t - dh_t dt_t B_t x_t

whose terms need only one of them each. So `forward_sweep_kernel` recomputes h and keeps, per element, only r = g sum_n A C h;
`reverse_sweep_kernel` runs dh and completes the sum. No state is stored per step. The sum restarts from its exact value
q = a dh . h every SUB steps, where the forward sweep stores h, which bounds its rounding error.

Between the sweeps `chunk_scan_kernel` carries dh over chunks, from each chunk's own contribution. Gradients that sum over
channels (B, C) leave as one partial row per channel block, those that sum over time (A, D, dt_bias) as one per chunk: no atomics,
the same bits every time.
"""

# ruff: noqa: RUF005, B007  (Triton has tuple concatenation, not unpacking)

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.selective_scan.triton_math import (
    LN_2,
    LOG2_E,
    exp_minus_abs,
    load_lanes,
    load_row,
    reciprocal,
    sigmoid,
    softplus_from,
    state_mask,
    step_size,
    sum_over_channels,
)
from bioaudio_kernels.triton_jit import jit


@jit
def forward_sweep_group(t, h, S, P, adjoint, dA, dD, p_x, s_x, p_dt, s_dt, p_B, s_B, p_C, s_C, p_z, s_z, p_dy, s_dy,
                        p_dz, p_r, p_sum, p_dC, d_inner, decay, bias, skip, mask, n_valid,
                        UNROLL: tl.constexpr, N: tl.constexpr, NB: tl.constexpr, COUNT: tl.constexpr,
                        BLOCK_D: tl.constexpr, PACK: tl.constexpr, MASK_N: tl.constexpr, SOFTPLUS: tl.constexpr,
                        FIRST: tl.constexpr, LAST: tl.constexpr):  # fmt: skip
    xs = ()
    dts = ()
    zs = ()
    dys = ()
    sums = ()
    rs = ()
    for u in tl.static_range(UNROLL):
        xs = xs + (load_lanes(p_x + (t + u) * s_x[1], mask),)
        dts = dts + (load_lanes(p_dt + (t + u) * s_dt[1], mask),)
        dys = dys + (load_lanes(p_dy + (t + u) * s_dy[1], mask),)
        if p_z is not None:
            zs = zs + (load_lanes(p_z + (t + u) * s_z[1], mask),)
        if not FIRST:
            sums = sums + (load_lanes(p_sum + (t + u) * d_inner, mask),)
            rs = rs + (load_lanes(p_r + (t + u) * d_inner, mask),)
    lane = tl.arange(0, 32)
    for u in tl.static_range(UNROLL):
        B = load_row(p_B + (t + u) * s_B[1], s_B[2], n_valid, NB, PACK, MASK_N)
        C = load_row(p_C + (t + u) * s_C[1], s_C[2], n_valid, NB, PACK, MASK_N)
        dt = step_size(dts[u] + bias, SOFTPLUS)
        S += dt
        dtx = dt * xs[u]
        g = dys[u]
        if p_z is not None:
            gate = sigmoid(zs[u])
            g = dys[u] * (zs[u] * gate)
        gS = g * S
        y = skip * xs[u] if FIRST else sums[u]
        r = tl.zeros([BLOCK_D], tl.float32)
        new_h = ()
        new_P = ()
        new_adjoint = ()
        new_dA = ()
        dCs = ()
        for n in tl.static_range(NB):
            a = tl.exp2(dt * decay[n])
            new_h = new_h + (a * h[n] + dtx * B[n],)
            Ch = C[n] * new_h[n]
            y += Ch
            r += decay[n] * Ch
            new_dA = new_dA + (dA[n] + gS * Ch,)
            new_P = new_P + (P[n] * a,)
            new_adjoint = new_adjoint + (adjoint[n] + new_P[n] * (C[n] * g),)
            dCs = dCs + (g * new_h[n],)
        for n in tl.static_range(NB, COUNT):
            dCs = dCs + (tl.zeros([BLOCK_D], tl.float32),)
        h = new_h
        P = new_P
        adjoint = new_adjoint
        dA = new_dA
        row = sum_over_channels(dCs, COUNT, BLOCK_D)
        tl.store(p_dC + (t + u) * N + lane, row, mask=lane < (tl.minimum(n_valid, NB) if MASK_N else NB))
        r = r * g * LN_2
        if FIRST:
            dD += g * xs[u]
        else:
            r += rs[u]
        tl.store(p_r + (t + u) * d_inner, r, mask=mask)
        if p_z is not None:
            if LAST:
                dz = dys[u] * y * (gate * (1.0 + zs[u] * (1.0 - gate)))
                tl.store(p_dz + (t + u) * d_inner, dz, mask=mask)
            else:
                tl.store(p_sum + (t + u) * d_inner, y, mask=mask)
    return h, S, P, adjoint, dA, dD


@jit(do_not_specialize=["chunk_0", "n_chunks", "length"])
def forward_sweep_kernel(p_x, s_x, p_dt, s_dt, p_A, s_A, p_B, s_B, p_C, s_C, p_D, p_z, s_z, p_bias, p_h, s_h, p_dy, s_dy,
                         p_dz, p_r, p_sum, p_dC, p_dA, p_dD, p_adjoint, p_sigma, p_end, p_S,
                         i_n, chunk_0, n_chunks, batch, length, d_inner,
                         N: tl.constexpr, NB: tl.constexpr, COUNT: tl.constexpr, CHUNK: tl.constexpr, SUB: tl.constexpr,
                         BLOCK_D: tl.constexpr, UNROLL: tl.constexpr, PACK: tl.constexpr, SOFTPLUS: tl.constexpr,
                         EVEN_D: tl.constexpr, WIDE: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr):  # fmt: skip
    """Everything that needs h: dz, dD, rows of dC, its part of dA, r; and each chunk's own adjoint.

    Grid: (channel blocks * n_chunks * batch,) over the chunks [chunk_0, chunk_0 + n_chunks) of a segment. Per segment:
    dC (channel blocks, batch, n_chunks * CHUNK, N), r and sum (batch, n_chunks * CHUNK, d_inner),
    dA and adjoint (batch, n_chunks, N, d_inner), dD and sigma (batch, n_chunks, d_inner),
    end (batch, n_chunks, CHUNK / SUB, N, d_inner), S (batch, n_chunks, CHUNK / SUB, d_inner).
    """
    INT: tl.constexpr = tl.int64 if WIDE else tl.int32
    n_blocks_d = tl.cdiv(d_inner, BLOCK_D)
    MASK_N: tl.constexpr = N % NB != 0
    SUBS: tl.constexpr = CHUNK // SUB
    pid = tl.program_id(0)
    i_d = pid % n_blocks_d
    d = (i_d * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    i_c = ((pid // n_blocks_d) % n_chunks).to(tl.int64)
    i_b = (pid // n_blocks_d // n_chunks).to(tl.int64)
    mask = None if EVEN_D else d < d_inner
    n0 = i_n * NB

    bias = 0.0 if p_bias is None else load_lanes(p_bias + d, mask)
    skip = 0.0 if p_D is None else load_lanes(p_D + d, mask)
    zeros = tl.zeros([BLOCK_D], tl.float32)
    decay = ()
    h = ()
    P = ()
    adjoint = ()
    dA = ()
    for n in tl.static_range(NB):
        decay = decay + (load_lanes(p_A + d * s_A[0] + (n0 + n) * s_A[1], state_mask(mask, d, d_inner, n0 + n < N, MASK_N)) * LOG2_E,)
        if p_h is None:
            h = h + (zeros,)
        else:
            offset = i_b * s_h[0] + (chunk_0 + i_c) * s_h[1] + (n0 + n) * s_h[2]
            h = h + (load_lanes(p_h + offset + d * s_h[3], state_mask(mask, d, d_inner, n0 + n < N, MASK_N)),)
        P = P + (zeros + 1.0,)
        adjoint = adjoint + (zeros,)
        dA = dA + (zeros,)
    dD = zeros
    sigma = zeros

    t0 = (chunk_0 + i_c) * CHUNK
    p_x += i_b * s_x[0] + t0 * s_x[1] + d * s_x[2]
    p_dt += i_b * s_dt[0] + t0 * s_dt[1] + d * s_dt[2]
    p_B += i_b * s_B[0] + t0 * s_B[1] + n0 * s_B[2]
    p_C += i_b * s_C[0] + t0 * s_C[1] + n0 * s_C[2]
    p_dy += i_b * s_dy[0] + t0 * s_dy[1] + d * s_dy[2]
    if p_z is not None:
        p_z += i_b * s_z[0] + t0 * s_z[1] + d * s_z[2]
        p_dz += (i_b * length + t0) * d_inner + d
    i_bc = i_b * n_chunks + i_c
    p_r += i_bc * CHUNK * d_inner + d
    if p_sum is not None:
        p_sum += i_bc * CHUNK * d_inner + d
    p_dC += ((i_d * batch + i_b) * n_chunks + i_c) * CHUNK * N + n0

    steps = tl.minimum(length - t0, CHUNK).to(tl.int32)
    for begin in range(0, steps, SUB):
        end = tl.minimum(begin + SUB, steps)
        whole = begin + (end - begin) // UNROLL * UNROLL
        S = zeros
        for t in range(begin, whole, UNROLL):
            h, S, P, adjoint, dA, dD = forward_sweep_group(
                tl.cast(t, INT), h, S, P, adjoint, dA, dD, p_x, s_x, p_dt, s_dt, p_B, s_B, p_C, s_C, p_z, s_z, p_dy, s_dy,
                p_dz, p_r, p_sum, p_dC, d_inner, decay, bias, skip, mask, N - n0,
                UNROLL, N, NB, COUNT, BLOCK_D, PACK, MASK_N, SOFTPLUS, FIRST, LAST)  # fmt: skip
        if UNROLL > 1:
            for t in range(whole, end):
                h, S, P, adjoint, dA, dD = forward_sweep_group(
                    tl.cast(t, INT), h, S, P, adjoint, dA, dD, p_x, s_x, p_dt, s_dt, p_B, s_B, p_C, s_C, p_z, s_z, p_dy, s_dy,
                    p_dz, p_r, p_sum, p_dC, d_inner, decay, bias, skip, mask, N - n0,
                    1, N, NB, COUNT, BLOCK_D, PACK, MASK_N, SOFTPLUS, FIRST, LAST)  # fmt: skip
        i_sub = i_bc * SUBS + begin // SUB
        for n in tl.static_range(NB):
            tl.store(p_end + (i_sub * N + n0 + n) * d_inner + d, h[n], mask=state_mask(mask, d, d_inner, n0 + n < N, MASK_N))
        tl.store(p_S + i_sub * d_inner + d, S, mask=mask)
        sigma += S

    for n in tl.static_range(NB):
        tl.store(p_adjoint + (i_bc * N + n0 + n) * d_inner + d, adjoint[n], mask=state_mask(mask, d, d_inner, n0 + n < N, MASK_N))
        tl.store(p_dA + (i_bc * N + n0 + n) * d_inner + d, dA[n], mask=state_mask(mask, d, d_inner, n0 + n < N, MASK_N))
    if FIRST:
        tl.store(p_sigma + i_bc * d_inner + d, sigma, mask=mask)
        tl.store(p_dD + i_bc * d_inner + d, dD, mask=mask)


@jit
def reverse_sweep_group(t, dh, S, run, dA, dbias, p_x, s_x, p_dt, s_dt, p_B, s_B, p_C, s_C, p_z, s_z, p_dy, s_dy,
                        p_r, p_dx, p_ddt, p_sum_x, p_sum_dt, p_dB, d_inner, decay, bias, skip, mask, n_valid,
                        UNROLL: tl.constexpr, N: tl.constexpr, NB: tl.constexpr, COUNT: tl.constexpr,
                        BLOCK_D: tl.constexpr, PACK: tl.constexpr, MASK_N: tl.constexpr, SOFTPLUS: tl.constexpr,
                        FIRST: tl.constexpr, LAST: tl.constexpr):  # fmt: skip
    """The UNROLL steps that end at t, last first."""
    xs = ()
    dts = ()
    gs = ()
    rs = ()
    sums_x = ()
    sums_dt = ()
    for u in tl.static_range(UNROLL):
        xs = xs + (load_lanes(p_x + (t - u) * s_x[1], mask),)
        dts = dts + (load_lanes(p_dt + (t - u) * s_dt[1], mask),)
        g = load_lanes(p_dy + (t - u) * s_dy[1], mask)
        if p_z is not None:
            z = load_lanes(p_z + (t - u) * s_z[1], mask)
            g = g * (z * sigmoid(z))
        gs = gs + (g,)
        if FIRST:
            rs = rs + (load_lanes(p_r + (t - u) * d_inner, mask),)
        else:
            sums_x = sums_x + (load_lanes(p_sum_x + (t - u) * d_inner, mask),)
            sums_dt = sums_dt + (load_lanes(p_sum_dt + (t - u) * d_inner, mask),)
    lane = tl.arange(0, 32)
    for u in tl.static_range(UNROLL):
        B = load_row(p_B + (t - u) * s_B[1], s_B[2], n_valid, NB, PACK, MASK_N)
        C = load_row(p_C + (t - u) * s_C[1], s_C[2], n_valid, NB, PACK, MASK_N)
        raw = dts[u] + bias
        slope = 1.0
        dt = raw
        if SOFTPLUS:
            e = exp_minus_abs(raw)
            dt = softplus_from(raw, e)
            slope = tl.where(raw >= 0, 1.0, e) * reciprocal(1.0 + e)
        dtx = dt * xs[u]
        Sdtx = S * dtx
        sum_B = tl.zeros([BLOCK_D], tl.float32)
        sum_AB = tl.zeros([BLOCK_D], tl.float32)
        new_dh = ()
        new_dA = ()
        dBs = ()
        for n in tl.static_range(NB):
            full = C[n] * gs[u] + dh[n]
            Bdh = B[n] * full
            sum_B += Bdh
            sum_AB += decay[n] * Bdh
            new_dA = new_dA + (dA[n] - Sdtx * Bdh,)
            dBs = dBs + (dtx * full,)
            new_dh = new_dh + (tl.exp2(dt * decay[n]) * full,)
        for n in tl.static_range(NB, COUNT):
            dBs = dBs + (tl.zeros([BLOCK_D], tl.float32),)
        dh = new_dh
        dA = new_dA
        S -= dt
        row = sum_over_channels(dBs, COUNT, BLOCK_D)
        tl.store(p_dB + (t - u) * N + lane, row, mask=lane < (tl.minimum(n_valid, NB) if MASK_N else NB))
        run -= dtx * sum_AB * LN_2
        if FIRST:
            run += rs[u]
        dx = dt * sum_B
        ddt = xs[u] * sum_B + run
        if FIRST:
            dx += skip * gs[u]
        else:
            dx += sums_x[u]
            ddt += sums_dt[u]
        if LAST:
            ddt = ddt * slope
            dbias += ddt
            tl.store(p_dx + (t - u) * d_inner, dx, mask=mask)
            tl.store(p_ddt + (t - u) * d_inner, ddt, mask=mask)
        else:
            tl.store(p_sum_x + (t - u) * d_inner, dx, mask=mask)
            tl.store(p_sum_dt + (t - u) * d_inner, ddt, mask=mask)
    return dh, S, run, dA, dbias


@jit(do_not_specialize=["chunk_0", "n_chunks", "length"])
def reverse_sweep_kernel(p_x, s_x, p_dt, s_dt, p_A, s_A, p_B, s_B, p_C, s_C, p_D, p_z, s_z, p_bias, p_dy, s_dy,
                         p_r, p_dh, p_end, p_S, p_dx, p_ddt, p_sum_x, p_sum_dt, p_dB, p_dA, p_dbias,
                         i_n, chunk_0, n_chunks, batch, length, d_inner,
                         N: tl.constexpr, NB: tl.constexpr, COUNT: tl.constexpr, CHUNK: tl.constexpr, SUB: tl.constexpr,
                         BLOCK_D: tl.constexpr, UNROLL: tl.constexpr, PACK: tl.constexpr, SOFTPLUS: tl.constexpr,
                         EVEN_D: tl.constexpr, WIDE: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr):  # fmt: skip
    """Everything that needs dh: dx, ddt, rows of dB, the rest of dA, dbias. Grid and buffers as `forward_sweep_kernel`."""
    INT: tl.constexpr = tl.int64 if WIDE else tl.int32
    n_blocks_d = tl.cdiv(d_inner, BLOCK_D)
    MASK_N: tl.constexpr = N % NB != 0
    SUBS: tl.constexpr = CHUNK // SUB
    pid = tl.program_id(0)
    i_d = pid % n_blocks_d
    d = (i_d * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    i_c = ((pid // n_blocks_d) % n_chunks).to(tl.int64)
    i_b = (pid // n_blocks_d // n_chunks).to(tl.int64)
    i_bc = i_b * n_chunks + i_c
    mask = None if EVEN_D else d < d_inner
    n0 = i_n * NB

    bias = 0.0 if p_bias is None else load_lanes(p_bias + d, mask)
    skip = 0.0 if p_D is None else load_lanes(p_D + d, mask)
    decay = ()
    dh = ()
    dA = ()
    for n in tl.static_range(NB):
        decay = decay + (load_lanes(p_A + d * s_A[0] + (n0 + n) * s_A[1], state_mask(mask, d, d_inner, n0 + n < N, MASK_N)) * LOG2_E,)
        dh = dh + (load_lanes(p_dh + (i_bc * N + n0 + n) * d_inner + d, state_mask(mask, d, d_inner, n0 + n < N, MASK_N)),)
        dA = dA + (load_lanes(p_dA + (i_bc * N + n0 + n) * d_inner + d, state_mask(mask, d, d_inner, n0 + n < N, MASK_N)),)
    dbias = tl.zeros([BLOCK_D], tl.float32)

    t0 = (chunk_0 + i_c) * CHUNK
    p_x += i_b * s_x[0] + t0 * s_x[1] + d * s_x[2]
    p_dt += i_b * s_dt[0] + t0 * s_dt[1] + d * s_dt[2]
    p_B += i_b * s_B[0] + t0 * s_B[1] + n0 * s_B[2]
    p_C += i_b * s_C[0] + t0 * s_C[1] + n0 * s_C[2]
    p_dy += i_b * s_dy[0] + t0 * s_dy[1] + d * s_dy[2]
    if p_z is not None:
        p_z += i_b * s_z[0] + t0 * s_z[1] + d * s_z[2]
    p_dx += (i_b * length + t0) * d_inner + d
    p_ddt += (i_b * length + t0) * d_inner + d
    p_r += i_bc * CHUNK * d_inner + d
    if p_sum_x is not None:
        p_sum_x += i_bc * CHUNK * d_inner + d
        p_sum_dt += i_bc * CHUNK * d_inner + d
    p_dB += ((i_d * batch + i_b) * n_chunks + i_c) * CHUNK * N + n0

    steps = tl.minimum(length - t0, CHUNK).to(tl.int32)
    n_subs = tl.cdiv(steps, SUB)
    for i in range(0, n_subs):
        begin = (n_subs - 1 - i) * SUB
        end = tl.minimum(begin + SUB, steps)
        whole = begin + (end - begin) // UNROLL * UNROLL
        i_sub = i_bc * SUBS + begin // SUB
        S = load_lanes(p_S + i_sub * d_inner + d, mask)
        run = tl.zeros([BLOCK_D], tl.float32)
        new_dA = ()
        for n in tl.static_range(NB):
            q = dh[n] * load_lanes(p_end + (i_sub * N + n0 + n) * d_inner + d, state_mask(mask, d, d_inner, n0 + n < N, MASK_N))
            run += decay[n] * q
            new_dA = new_dA + (dA[n] + S * q,)
        dA = new_dA
        run = run * LN_2
        if UNROLL > 1:
            for t in range(0, end - whole):
                dh, S, run, dA, dbias = reverse_sweep_group(
                    tl.cast(end - 1 - t, INT), dh, S, run, dA, dbias, p_x, s_x, p_dt, s_dt, p_B, s_B, p_C, s_C, p_z, s_z,
                    p_dy, s_dy, p_r, p_dx, p_ddt, p_sum_x, p_sum_dt, p_dB, d_inner, decay, bias, skip, mask, N - n0,
                    1, N, NB, COUNT, BLOCK_D, PACK, MASK_N, SOFTPLUS, FIRST, LAST)  # fmt: skip
        for t in range(0, whole - begin, UNROLL):
            dh, S, run, dA, dbias = reverse_sweep_group(
                tl.cast(whole - 1 - t, INT), dh, S, run, dA, dbias, p_x, s_x, p_dt, s_dt, p_B, s_B, p_C, s_C, p_z, s_z,
                p_dy, s_dy, p_r, p_dx, p_ddt, p_sum_x, p_sum_dt, p_dB, d_inner, decay, bias, skip, mask, N - n0,
                UNROLL, N, NB, COUNT, BLOCK_D, PACK, MASK_N, SOFTPLUS, FIRST, LAST)  # fmt: skip

    for n in tl.static_range(NB):
        tl.store(p_dA + (i_bc * N + n0 + n) * d_inner + d, dA[n], mask=state_mask(mask, d, d_inner, n0 + n < N, MASK_N))
    if LAST:
        tl.store(p_dbias + i_bc * d_inner + d, dbias, mask=mask)
