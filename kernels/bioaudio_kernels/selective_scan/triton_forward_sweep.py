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

For complex states everything here is the derivative with respect to the number itself, without conjugates:
the same formulas hold, and the caller conjugates the results. A state stands for two, which doubles g where
it meets C.

Between the sweeps `chunk_scan_kernel` carries dh over chunks. Gradients that sum over channels (B, C) leave
as one partial row per channel block, those that sum over time (A, D, dt_bias; B, C constant in time) as one
per chunk: no atomics, the same bits every time.
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
from bioaudio_kernels.selective_scan.triton_math import (
    LN_2,
    number_decay,
    number_product,
    number_sum,
    rate_product,
    scaled,
    step_size,
    sum_in_lanes,
    sum_over_lanes,
)
from bioaudio_kernels.triton_jit import jit
from bioaudio_kernels.triton_vectors import lane_mask, load_lanes, sigmoid


@jit
def fetch_forward(t, x, dt, dy, z, mask):
    """x, dt, dy and z of a step, as they lie in memory."""
    gate = ()
    if len(z) > 0:
        gate = (fetch_lanes(z, t, mask),)
    return fetch_lanes(x, t, mask), fetch_lanes(dt, t, mask), fetch_lanes(dy, t, mask), gate


@jit
def fetch_rows(t, B, C, s_B, s_C, n_valid, COUNT: tl.constexpr, PACK: tl.constexpr, MASK_N: tl.constexpr):
    """The rows of B and C of a step, as they lie in memory."""
    row_B = ()
    row_C = ()
    if len(B) > 0:
        row_B = fetch_row(B, t, s_B[3], n_valid, COUNT, PACK, MASK_N)
    if len(C) > 0:
        row_C = fetch_row(C, t, s_C[3], n_valid, COUNT, PACK, MASK_N)
    return row_B, row_C


@jit
def ready_forward(step, bias, SOFTPLUS: tl.constexpr):
    """x, dt, g, and the factor of y in dz, of a step."""
    x, raw, dy, gate = step
    g = dy.to(tl.float32)
    slope = ()
    if len(gate) > 0:
        z = gate[0].to(tl.float32)
        open_ = sigmoid(z)
        slope = (g * (open_ * (1.0 + z * (1.0 - open_))),)
        g = g * (z * open_)
    return x.to(tl.float32), step_size(raw.to(tl.float32) + bias, SOFTPLUS), g, slope


@jit(do_not_specialize=["i_n", "chunk_0", "chunks", "n_chunks", "chunk", "length"])
def forward_sweep_kernel(
    p_x, s_x, p_dt, s_dt, p_A, s_A, p_B, s_B, p_C, s_C, p_D, p_z, s_z, p_bias, p_states, p_dy, s_dy,
    p_dz, s_dz, p_r, p_sum, p_dC, p_dA, p_dD, p_adjoint, p_sigma, p_end, p_S,
    p_chunks, i_n, chunk_0, chunks, n_chunks, chunk, length, group_size, d_inner,
    N: tl.constexpr, NB: tl.constexpr, PARTS: tl.constexpr, COUNT: tl.constexpr, SUB: tl.constexpr,
    BLOCK_D: tl.constexpr, PACK: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr,
    EVEN_D: tl.constexpr, WIDE: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr,
    ADJOINT: tl.constexpr,
):  # fmt: skip
    """dz, dD, dC, r, the first part of dA, and with ADJOINT each chunk's own adjoint.

    The adjoint is the gradient at the state before the chunk from that chunk alone. Grid: (channel blocks *
    chunks,) over the chunks [chunk_0, chunk_0 + chunks) of a segment. Buffers as in `Segment`; blocks of
    states as in `output_kernel`.
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
    h = load_numbers(p_states + ((chunk_0 + i_c) * N + n0) * PARTS * d_inner + d, d_inner, masks, PARTS)
    if ADJOINT:
        product = full_numbers(1.0, NB, PARTS, BLOCK_D)
        adjoint = full_numbers(0.0, NB, PARTS, BLOCK_D)
    dA = full_numbers(0.0, NB, PARTS, BLOCK_D)
    zeros = tl.zeros([BLOCK_D], tl.float32)
    dD = zeros
    sigma = zeros
    x = open_lanes(p_x, s_x, i_b, first, d0, d, stop, REVERSE, BLOCK_D)
    dt = open_lanes(p_dt, s_dt, i_b, first, d0, d, stop, REVERSE, BLOCK_D)
    dy = open_lanes(p_dy, s_dy, i_b, first, d0, d, stop, REVERSE, BLOCK_D)
    z = open_lanes(p_z, s_z, i_b, first, d0, d, stop, REVERSE, BLOCK_D)
    dz = open_lanes(p_dz, s_dz, i_b, first, d0, d, stop, REVERSE, BLOCK_D)
    B = ()
    C = ()
    dC_sum = ()
    if len(s_B) == 2:
        B_t = load_numbers(p_B + d * s_B[0] + n0 * PARTS * s_B[1], s_B[1], masks, PARTS)
    else:
        B = open_row(p_B, s_B, i_b, first, group, n0 * PARTS, n_valid, REVERSE, VALUES)
    if len(s_C) == 2:
        C_t = load_numbers(p_C + d * s_C[0] + n0 * PARTS * s_C[1], s_C[1], masks, PARTS)
        dC_sum = full_numbers(0.0, NB, PARTS, BLOCK_D)
    else:
        C = open_row(p_C, s_C, i_b, first, group, n0 * PARTS, n_valid, REVERSE, VALUES)
    p_r += i_c * chunk * d_inner + d
    if p_sum is not None:
        p_sum += i_c * chunk * d_inner + d
    lane = tl.arange(0, 32)
    row_mask = lane < (tl.minimum(n_valid, VALUES) if MASK_N else VALUES)
    row = p_dC + (i_d * chunks + i_c) * chunk * (N * PARTS) + n0 * PARTS + lane

    streams = (x, dt, dy, z, B, C)
    sink = tl.zeros([32], tl.float32)
    touched = touch(streams, 0, steps)
    ahead = fetch_forward(tl.cast(0, INT), x, dt, dy, z, mask)
    rows = fetch_rows(tl.cast(0, INT), B, C, s_B, s_C, n_valid, VALUES, PACK, MASK_N)
    for begin in range(0, steps, SUB):
        S = zeros
        for i in range(begin, tl.minimum(begin + SUB, steps)):
            t = tl.cast(i, INT)
            if due(i):
                sink = absorb(sink, touched)
                touched = touch(streams, t + TOUCHED, steps)
            now = ahead
            row_B, row_C = rows
            after = tl.cast(tl.minimum(i + 1, steps - 1), INT)
            ahead = fetch_forward(after, x, dt, dy, z, mask)
            rows = fetch_rows(after, B, C, s_B, s_C, n_valid, VALUES, PACK, MASK_N)
            x_t, dt_t, g, slope = ready_forward(now, bias, SOFTPLUS)
            if len(row_B) > 0:
                B_t = as_numbers(unpack_row(row_B, B_TYPE, PACK), PARTS)
            if len(row_C) > 0:
                C_t = as_numbers(unpack_row(row_C, C_TYPE, PACK), PARTS)
            dtx = dt_t * x_t
            S += dt_t
            g2 = g * PARTS
            gS = g2 * S
            # Odd states have sums of their own: a chain of dependent additions half as long.
            y = zeros
            r = zeros
            y_odd = zeros
            r_odd = zeros
            new_h = ()
            new_product = ()
            new_adjoint = ()
            new_dA = ()
            dC = ()
            for n in tl.static_range(NB):
                a = number_decay(dt_t, rates[n])
                new_h = new_h + (number_sum(number_product(a, h[n]), scaled(dtx, B_t[n])),)
                Ch = number_product(C_t[n], new_h[n])
                if n % 2 == 0:
                    y += Ch[0]
                    r += rate_product(rates[n], Ch)
                else:
                    y_odd += Ch[0]
                    r_odd += rate_product(rates[n], Ch)
                new_dA = new_dA + (number_sum(dA[n], scaled(gS, Ch)),)
                if ADJOINT:
                    new_product = new_product + (number_product(product[n], a),)
                    pull = number_product(new_product[n], scaled(g2, C_t[n]))
                    new_adjoint = new_adjoint + (number_sum(adjoint[n], pull),)
                if len(s_C) == 2:
                    dC = dC + (number_sum(dC_sum[n], scaled(g2, new_h[n])),)
                else:
                    dC = dC + sum_in_lanes(scaled(g2, new_h[n]), BLOCK_D)
            h = new_h
            if ADJOINT:
                product = new_product
                adjoint = new_adjoint
            dA = new_dA
            if len(s_C) == 2:
                dC_sum = dC
            else:
                tl.store(row + t * (N * PARTS), sum_over_lanes(dC, COUNT), mask=row_mask)
            r = (r + r_odd) * g2 * LN_2
            y = (y + y_odd) * PARTS
            if FIRST:
                dD += g * x_t
                y += skip * x_t
            else:
                r += tl.load(p_r + t * d_inner, mask=mask, other=0.0)
                y += tl.load(p_sum + t * d_inner, mask=mask, other=0.0)
            tl.store(p_r + t * d_inner, r, mask=mask)
            if not LAST:
                tl.store(p_sum + t * d_inner, y, mask=mask)
            elif len(dz) > 0:
                tl.store(dz[0] + t * dz[1], slope[0] * y, mask=mask)
        at = i_c * (chunk // SUB) + begin // SUB
        store_numbers(p_end + (at * N + n0) * PARTS * d_inner + d, d_inner, h, masks)
        tl.store(p_S + at * d_inner + d, S, mask=mask)
        sigma += S

    pour(p_sigma, absorb(sink, touched), steps)
    chunk_states = (i_c * N + n0) * PARTS * d_inner + d
    if ADJOINT:
        store_numbers(p_adjoint + chunk_states, d_inner, adjoint, masks)
    store_numbers(p_dA + chunk_states, d_inner, dA, masks)
    if len(s_C) == 2:
        store_numbers(p_dC + chunk_states, d_inner, dC_sum, masks)
    if FIRST:
        tl.store(p_sigma + i_c * d_inner + d, sigma, mask=mask)
        tl.store(p_dD + i_c * d_inner + d, dD, mask=mask)
