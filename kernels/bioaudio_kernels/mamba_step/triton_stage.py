# type: ignore  (Triton's language is not Python: pyright cannot type it)
"""One time step of a narrow stage of Mamba blocks on Triton: all its blocks in one launch.

Names: `p_` pointers, `s_` strides of rows; x is the residual stream.
"""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.mamba_step.triton_block import (
    convolve,
    first_x,
    in_proj,
    load_rows,
    load_selection,
    load_tile,
    parts,
    product,
    scan_step,
    store_tile,
    wait_for_launch_before,
)
from bioaudio_kernels.triton_jit import jit


@jit
def load_matrices(
    here, D: tl.constexpr, INNER: tl.constexpr, SEL: tl.constexpr, RANK: tl.constexpr, N: tl.constexpr,
    K_IN: tl.constexpr, K_SEL: tl.constexpr, K_OUT: tl.constexpr,
):  # fmt: skip
    """in_proj in its halves, x_proj and out_proj, each in registers as a whole."""
    _, _, _, p_in_x, p_in_z, p_sel, p_out = here
    return (
        load_tile(p_in_x, D, INNER, K_IN, INNER),
        load_tile(p_in_z, D, INNER, K_IN, INNER),
        load_selection(p_sel, INNER, SEL, K_SEL, RANK + 2 * N),
        load_tile(p_out, INNER, D, K_OUT, D),
    )


@jit
def narrow_block(
    x, matrices, here, later, p_conv, p_ssm, width, eps, D: tl.constexpr, INNER: tl.constexpr,
    SEL: tl.constexpr, RANK: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr, K_IN: tl.constexpr,
    K_SEL: tl.constexpr, K_DT: tl.constexpr, K_N: tl.constexpr, K_OUT: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """x + block(norm(x)), and the matrices, which with AHEAD give way to those of the next block at once.

    States move on in place. `here` and `later` are the parts of this block and the next one.
    """
    w_x, w_z, w_sel, w_out = matrices
    p_channels, p_rates, p_dt, _, _, _, _ = here
    _, _, _, p_in_x, p_in_z, p_sel, p_out = later
    channel = tl.arange(0, INNER)
    past = load_rows(p_conv + channel, WIDTH - 1, INNER)
    own = load_rows(p_channels + channel, WIDTH + 3, INNER)
    w_dt = load_tile(p_dt, RANK, INNER, K_DT, INNER)
    h, rates = load_tile(p_ssm, N, INNER, K_N, INNER), load_tile(p_rates, N, INNER, K_N, INNER)
    tl.debug_barrier()  # several threads may have read a state that one of them overwrites
    now, z = in_proj(w_x, w_z, x, width, eps)
    if AHEAD:
        w_x, w_z = load_tile(p_in_x, D, INNER, K_IN, INNER), load_tile(p_in_z, D, INNER, K_IN, INNER)
    heard = convolve(now, past, own, p_conv + channel, INNER)
    selected = product(w_sel, heard)
    if AHEAD:
        w_sel = load_selection(p_sel, INNER, SEL, K_SEL, RANK + 2 * N)
    y, h = scan_step(h, rates, heard, z, selected, w_dt, own[WIDTH + 1], own[WIDTH + 2])
    store_tile(p_ssm, h, INNER)
    x += product(w_out, y)
    if AHEAD:
        w_out = load_tile(p_out, INNER, D, K_OUT, D)
    return x, (w_x, w_z, w_sel, w_out)


@jit(do_not_specialize=["rows", "layers"])
def narrow_kernel(
    source, p_skips, p_entered, p_out, s_out, p_weights, p_conv, p_ssm, rows, layers, width, eps,
    ROWS: tl.constexpr, D: tl.constexpr, INNER: tl.constexpr, SEL: tl.constexpr, RANK: tl.constexpr,
    N: tl.constexpr, WIDTH: tl.constexpr, K_IN: tl.constexpr, K_SEL: tl.constexpr, K_DT: tl.constexpr,
    K_N: tl.constexpr, K_OUT: tl.constexpr, RESIDUAL: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """All blocks of a stage. Grid: (blocks of ROWS sequences,).

    A single sequence stays in registers, and the weights of a block are loaded while the one before it runs.
    Several go through a block one after the other, so that its weights are read once for all of them.
    """
    lane = tl.arange(0, D)
    first = tl.program_id(0).to(tl.int64) * ROWS
    end = tl.minimum(first + ROWS, rows)
    here = parts(p_weights, 0, D, INNER, SEL, RANK, N, WIDTH)
    matrices = load_matrices(here, D, INNER, SEL, RANK, N, K_IN, K_SEL, K_OUT)
    wait_for_launch_before(EARLY)
    x = first_x(first, source, D)
    tl.store(p_entered + first * D + lane, x)
    for row in range(first + 1, end):
        tl.store(p_entered + row * D + lane, first_x(row, source, D))
    for layer in range(layers):
        here = parts(p_weights, layer, D, INNER, SEL, RANK, N, WIDTH)
        later = parts(p_weights, tl.minimum(layer + 1, layers - 1), D, INNER, SEL, RANK, N, WIDTH)
        if ROWS > 1:
            tl.debug_barrier()  # what one thread stored of x, others load
        for row in range(first, end):
            slot = layer * rows + row
            if ROWS > 1:
                x = tl.load(p_entered + slot * D + lane)
            x, matrices = narrow_block(
                x, matrices, here, later, p_conv + slot * (WIDTH - 1) * INNER, p_ssm + slot * N * INNER,
                width, eps, D, INNER, SEL, RANK, N, WIDTH, K_IN, K_SEL, K_DT, K_N, K_OUT, ROWS == 1,
            )  # fmt: skip
            if p_skips is not None:
                x += tl.load(p_skips + ((layers - 1 - layer) * rows + row) * D + lane)
            if layer == layers - 1:
                if RESIDUAL:
                    x += tl.load(p_entered + row * D + lane)
                tl.store(p_out + row * s_out + lane, x)
            else:
                tl.store(p_entered + (slot + rows) * D + lane, x)
        if ROWS > 1:
            matrices = load_matrices(later, D, INNER, SEL, RANK, N, K_IN, K_SEL, K_OUT)
