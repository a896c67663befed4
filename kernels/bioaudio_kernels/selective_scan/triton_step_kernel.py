# type: ignore  (Triton's language is not Python: pyright cannot type it)
"""The kernel of one time step: a tile of channels by states a program, every number read and written once.

A step has no loop over time, so states lie along the second axis of a tile, as they do in memory, and the
sum over them is a shuffle or two. Softplus and decays are those of the scan's kernels. Names as there: `p_`
pointers, `s_` strides, `i_` indices of the program; a number is a tuple (real,) or (real, imaginary).
"""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.selective_scan.triton_math import (
    TURNS,
    number_decay,
    number_product,
    number_sum,
    product_real,
    scaled,
    step_size,
)
from bioaudio_kernels.triton_jit import jit
from bioaudio_kernels.triton_vectors import LOG2_E, load_lanes, sigmoid


@jit
def pairs_at(p, offset):
    """Pointers to complex numbers: `p` points to pairs of floats, `offset` counts complex numbers."""
    return p + (2 * offset)[:, :, None] + tl.arange(0, 2)[None, None, :]


@jit
def load_number(p, offset, mask, COMPLEX: tl.constexpr):
    """A tile of numbers, fp32."""
    if COMPLEX:
        real, imaginary = tl.split(load_lanes(pairs_at(p, offset), mask[:, :, None]))
        return real, imaginary
    else:
        return (load_lanes(p + offset, mask),)


@jit
def store_number(p, offset, number, mask):
    """The reverse of `load_number`."""
    if len(number) == 1:
        tl.store(p + offset, number[0], mask=mask)
    else:
        tl.store(pairs_at(p, offset), tl.join(number[0], number[1]), mask=mask[:, :, None])


@jit
def load_map(
    p, s, i_b, i_g, d, n, tile, mask_n,
    BY_CHANNEL: tl.constexpr, STORED_COMPLEX: tl.constexpr, COMPLEX: tl.constexpr,
):  # fmt: skip
    """B or C: a row for each channel of the tile, or one row for all of them."""
    offset = i_b * s[0] + i_g * s[1] + n[None, :] * s[3]
    if BY_CHANNEL:
        number = load_number(p, offset + d[:, None] * s[2], tile, STORED_COMPLEX)
    else:
        number = load_number(p, offset, mask_n[None, :], STORED_COMPLEX)
    if COMPLEX and not STORED_COMPLEX:
        return number[0], tl.zeros_like(number[0])
    else:
        return number


@jit
def step_kernel(
    p_x, s_x, p_dt, s_dt, p_A, s_A, p_B, s_B, p_C, s_C, p_D, s_D, p_z, s_z, p_bias, s_bias,
    p_state, s_state, p_new, s_new, p_rows, p_y, heads, dim, heads_per_B, heads_per_C,
    N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, TILES: tl.constexpr,
    SOFTPLUS: tl.constexpr, COMPLEX: tl.constexpr, COMPLEX_B: tl.constexpr, COMPLEX_C: tl.constexpr,
    B_BY_CHANNEL: tl.constexpr, C_BY_CHANNEL: tl.constexpr,
):  # fmt: skip
    """y (batch, heads, dim) and the new state of one step, which may be written over the old one.

    Grid: (batch, channel blocks of TILES tiles, heads), so that no program has to divide before its first
    load. Head h reads row h // heads_per_B of B. With `rows`, batch element b has its state in row rows[b]; a
    negative row is no state: y is 0.
    """
    i_b = tl.program_id(0).to(tl.int64)
    i_h = tl.program_id(2).to(tl.int64)
    row = i_b if p_rows is None else tl.load(p_rows + i_b).to(tl.int64)

    n = tl.arange(0, BLOCK_N).to(tl.int64)
    mask_n = n < tl.where(row >= 0, N, 0)
    for i in tl.static_range(TILES):
        first = (tl.program_id(1) * TILES + i) * BLOCK_D
        d = (first + tl.arange(0, BLOCK_D)).to(tl.int64)
        mask = d < tl.where(row >= 0, dim, 0)
        tile = mask[:, None] & mask_n[None, :]
        old = row * s_state[0] + i_h * s_state[1] + d[:, None] * s_state[2] + n[None, :] * s_state[3]
        new = row * s_new[0] + i_h * s_new[1] + d[:, None] * s_new[2] + n[None, :] * s_new[3]
        h = load_number(p_state, old, tile, COMPLEX)
        A = load_number(p_A, i_h * s_A[0] + d[:, None] * s_A[1] + n[None, :] * s_A[2], tile, COMPLEX)
        B = load_map(p_B, s_B, i_b, i_h // heads_per_B, d, n, tile, mask_n, B_BY_CHANNEL, COMPLEX_B, COMPLEX)
        C = load_map(p_C, s_C, i_b, i_h // heads_per_C, d, n, tile, mask_n, C_BY_CHANNEL, COMPLEX_C, COMPLEX)
        x = load_lanes(p_x + i_b * s_x[0] + i_h * s_x[1] + d * s_x[2], mask)
        raw = load_lanes(p_dt + i_b * s_dt[0] + i_h * s_dt[1] + d * s_dt[2], mask)
        if p_bias is not None:
            raw += load_lanes(p_bias + i_h * s_bias[0] + d * s_bias[1], mask)
        skip = 0.0 if p_D is None else load_lanes(p_D + i_h * s_D[0] + d * s_D[1], mask)
        if p_z is not None:
            z = load_lanes(p_z + i_b * s_z[0] + i_h * s_z[1] + d * s_z[2], mask)

        dt = step_size(raw, SOFTPLUS)
        rate = (A[0] * LOG2_E, A[1] * TURNS) if COMPLEX else (A[0] * LOG2_E,)
        decayed = number_product(number_decay(dt[:, None], rate), h)
        h = number_sum(decayed, scaled((dt * x)[:, None], B))
        store_number(p_new, new, h, tile)
        total = tl.sum(product_real(C, h), 1)
        if COMPLEX:  # a state stands for itself and its conjugate
            total *= 2.0
        y = skip * x + total
        if p_z is not None:
            y *= z * sigmoid(z)
        tl.store(p_y + (i_b * heads + i_h) * dim + d, y, mask=d < dim)
