# type: ignore  (Triton's language is not Python: pyright cannot type it)
# ruff: noqa: RUF005  (and it has no unpacking)
"""First half of the backward pass of the selective scan: all that needs the states h, going forward in time.

Let g = dy silu(z) be the gradient at C . h + D x, and dh the gradient at h. The gradient at the logarithm of
the decay a_t is q_t = dh_t a_t h_{t-1}: it needs h, known going forward, and dh, known going back. But q
obeys

    q_t = q_{t+1} + g_t C_t h_t - dh_t dt_t B_t x_t

whose terms need only one of the two. So this sweep recomputes h and keeps, per element, r = g sum_n A C h
alone; the reverse sweep runs dh and completes the sum. No state is stored per step. The sum restarts from its
exact value, q = a dh . h, every SUB steps, where this sweep stores h: that bounds its rounding error. For the
gradient at A = sum_t dt_t q_t the same sum is taken by parts, with S the sum of dt since the restart.

Between the sweeps `chunk_scan_kernel` carries dh over chunks. Gradients that sum over channels (B, C) leave
as one partial row per channel block, those that sum over time (A, D, dt_bias) as one per chunk: no atomics,
the same bits every time.
"""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.selective_scan.triton_math import (
    LN_2,
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
    sum_over_channels,
)
from bioaudio_kernels.triton_jit import jit


@jit(do_not_specialize=["i_n", "chunk_0", "n_chunks", "chunk", "batch", "length"])
def forward_sweep_kernel(
    p_x, s_x, p_dt, s_dt, p_A, s_A, p_B, s_B, p_C, s_C, p_D, p_z, s_z, p_bias, p_h, s_h, p_dy, s_dy,
    p_dz, p_r, p_sum, p_dC, p_dA, p_dD, p_adjoint, p_sigma, p_end, p_S,
    i_n, chunk_0, n_chunks, chunk, batch, length, d_inner,
    N: tl.constexpr, NB: tl.constexpr, COUNT: tl.constexpr, SUB: tl.constexpr,
    BLOCK_D: tl.constexpr, PACK: tl.constexpr, SOFTPLUS: tl.constexpr, EVEN_D: tl.constexpr, WIDE:
    tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """dz, dD, rows of dC, r, the first part of dA, and each chunk's own adjoint.

    The adjoint is the gradient at the state before the chunk from that chunk alone. Grid: (channel blocks *
    n_chunks * batch,) over the chunks [chunk_0, chunk_0 + n_chunks) of a segment. Buffers as in `Segment`;
    `h` and blocks of states as in `output_kernel`.
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
    if p_h is None:
        h = full_states(0.0, NB, BLOCK_D)
    else:
        entering = p_h + i_b * s_h[0] + (chunk_0 + i_c) * s_h[1] + n0 * s_h[2] + d * s_h[3]
        h = load_states(entering, s_h[2], masks, NB)
    product = full_states(1.0, NB, BLOCK_D)
    adjoint = full_states(0.0, NB, BLOCK_D)
    dA = full_states(0.0, NB, BLOCK_D)
    zeros = tl.zeros([BLOCK_D], tl.float32)
    dD = zeros
    sigma = zeros

    t0 = (chunk_0 + i_c) * chunk
    p_x += i_b * s_x[0] + t0 * s_x[1] + d * s_x[2]
    p_dt += i_b * s_dt[0] + t0 * s_dt[1] + d * s_dt[2]
    p_B += i_b * s_B[0] + t0 * s_B[1] + n0 * s_B[2]
    p_C += i_b * s_C[0] + t0 * s_C[1] + n0 * s_C[2]
    p_dy += i_b * s_dy[0] + t0 * s_dy[1] + d * s_dy[2]
    if p_z is not None:
        p_z += i_b * s_z[0] + t0 * s_z[1] + d * s_z[2]
        p_dz += (i_b * length + t0) * d_inner + d
    p_r += i_bc * chunk * d_inner + d
    if p_sum is not None:
        p_sum += i_bc * chunk * d_inner + d
    p_dC += ((i_d * batch + i_b) * n_chunks + i_c) * chunk * N + n0 + lane

    steps = tl.minimum(length - t0, chunk).to(tl.int32)
    for begin in range(0, steps, SUB):
        S = zeros
        for i in range(begin, tl.minimum(begin + SUB, steps)):
            t = tl.cast(i, INT)
            x = load_lanes(p_x + t * s_x[1], mask)
            raw = load_lanes(p_dt + t * s_dt[1], mask) + bias
            g = load_lanes(p_dy + t * s_dy[1], mask)
            if p_z is not None:
                z = load_lanes(p_z + t * s_z[1], mask)
                open_ = sigmoid(z)
                d_gate = g * (open_ * (1.0 + z * (1.0 - open_)))
                g = g * (z * open_)
            y = skip * x if FIRST else load_lanes(p_sum + t * d_inner, mask)
            B = load_row(p_B + t * s_B[1], s_B[2], N - n0, NB, PACK, MASK_N)
            C = load_row(p_C + t * s_C[1], s_C[2], N - n0, NB, PACK, MASK_N)
            dt = step_size(raw, SOFTPLUS)
            dtx = dt * x
            S += dt
            gS = g * S
            r = zeros
            new_h = ()
            new_product = ()
            new_adjoint = ()
            new_dA = ()
            dC = ()
            for n in tl.static_range(NB):
                a = tl.exp2(dt * decay[n])
                new_h = new_h + (a * h[n] + dtx * B[n],)
                Ch = C[n] * new_h[n]
                y += Ch
                r += decay[n] * Ch
                new_dA = new_dA + (dA[n] + gS * Ch,)
                new_product = new_product + (product[n] * a,)
                new_adjoint = new_adjoint + (adjoint[n] + new_product[n] * (C[n] * g),)
                dC = dC + (g * new_h[n],)
            h = new_h
            product = new_product
            adjoint = new_adjoint
            dA = new_dA
            tl.store(p_dC + t * N, sum_over_channels(dC, NB, COUNT, BLOCK_D), mask=row_mask)
            r = r * g * LN_2
            if FIRST:
                dD += g * x
            else:
                r += load_lanes(p_r + t * d_inner, mask)
            tl.store(p_r + t * d_inner, r, mask=mask)
            if not LAST:
                tl.store(p_sum + t * d_inner, y, mask=mask)
            elif p_z is not None:
                tl.store(p_dz + t * d_inner, d_gate * y, mask=mask)
        i_sub = i_bc * (chunk // SUB) + begin // SUB
        store_states(p_end + (i_sub * N + n0) * d_inner + d, d_inner, h, masks, NB)
        tl.store(p_S + i_sub * d_inner + d, S, mask=mask)
        sigma += S

    chunk_states = (i_bc * N + n0) * d_inner + d
    store_states(p_adjoint + chunk_states, d_inner, adjoint, masks, NB)
    store_states(p_dA + chunk_states, d_inner, dA, masks, NB)
    if FIRST:
        tl.store(p_sigma + i_bc * d_inner + d, sigma, mask=mask)
        tl.store(p_dD + i_bc * d_inner + d, dD, mask=mask)
