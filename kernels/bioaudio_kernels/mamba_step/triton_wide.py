# type: ignore  (Triton's language is not Python: pyright cannot type it)
"""One time step of a wide Mamba block on Triton: two launches of programs that have some channels each.

The weights of a wide block would take a single multiprocessor too long to read. `enter_kernel` goes up to the
sums over channels that select dt, B and C, `leave_kernel` up to the block's output. Both leave such sums in
parts, one of each program, which every program of the next launch adds up in the same order. Of many
sequences, `leave_kernel` takes the scan alone, between the products of `triton_tiles`.
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
def sum_of_parts(p, row, PARTS: tl.constexpr, LANES: tl.constexpr):
    """The sum of the parts (rows, PARTS, LANES) of a row."""
    p += row * PARTS * LANES + tl.arange(0, LANES)
    total = tl.load(p)
    for part in tl.static_range(1, PARTS):
        total += tl.load(p + part * LANES)
    return total


@jit
def entering(
    row, rows, layer, layers, source, p_skips, p_entered, p_parts, PARTS: tl.constexpr, D: tl.constexpr
):
    """What enters block `layer` of a stage, or leaves the last."""
    lane = tl.arange(0, D)
    if layer == 0:
        x = first_x(row, source, D)
    else:
        x = tl.load(p_entered + ((layer - 1) * rows + row) * D + lane)
        x += sum_of_parts(p_parts, row, PARTS, D)
        if p_skips is not None:
            x += tl.load(p_skips + ((layers - layer) * rows + row) * D + lane)
    return x


@jit(do_not_specialize=["rows", "layer", "layers"])
def enter_kernel(
    source, p_skips, p_entered, p_parts, p_sel_parts, p_heard, p_z, p_weights, p_conv,
    rows, layer, layers, width, eps, CHANNELS: tl.constexpr, D: tl.constexpr, INNER: tl.constexpr,
    SEL: tl.constexpr, RANK: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr, K_IN: tl.constexpr,
    K_SEL: tl.constexpr, K_DT: tl.constexpr, K_N: tl.constexpr, K_OUT: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Norm, in_proj, convolution and a part of x_proj. Grid: (sequences, INNER / CHANNELS)."""
    PARTS: tl.constexpr = INNER // CHANNELS
    row, part, lane = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, D)
    channel = part * CHANNELS + tl.arange(0, CHANNELS)
    p_channels, _, _, p_in_x, p_in_z, p_sel, _ = parts(p_weights, layer, D, INNER, SEL, RANK, N, WIDTH)
    taps = load_rows(p_channels + channel, WIDTH + 1, INNER)
    w_sel = load_selection(p_sel + part * CHANNELS * SEL, CHANNELS, SEL, K_SEL, RANK + 2 * N)
    w_x = load_tile(p_in_x + part * CHANNELS * K_IN, D, CHANNELS, K_IN, INNER)
    w_z = load_tile(p_in_z + part * CHANNELS * K_IN, D, CHANNELS, K_IN, INNER)
    wait_for_launch_before(EARLY)
    p_past = p_conv + (layer * rows + row) * (WIDTH - 1) * INNER + channel
    past = load_rows(p_past, WIDTH - 1, INNER)
    tl.debug_barrier()  # several threads may have read what one of them overwrites
    x = entering(row, rows, layer, layers, source, p_skips, p_entered, p_parts, PARTS, D)
    if part == 0:
        tl.store(p_entered + (layer * rows + row) * D + lane, x)
    now, z = in_proj(w_x, w_z, x, width, eps)
    heard = convolve(now, past, taps, p_past, INNER)
    tl.store(p_heard + row * INNER + channel, heard)
    tl.store(p_z + row * INNER + channel, z)
    tl.store(p_sel_parts + (row * PARTS + part) * SEL + tl.arange(0, SEL), product(w_sel, heard))


@jit(do_not_specialize=["rows", "layer"])
def leave_kernel(
    p_sel_parts, p_heard, p_z, p_parts, p_weights, p_ssm, rows, layer, SEL_PARTS: tl.constexpr,
    CHANNELS: tl.constexpr, D: tl.constexpr, INNER: tl.constexpr, SEL: tl.constexpr, RANK: tl.constexpr,
    N: tl.constexpr, WIDTH: tl.constexpr, K_IN: tl.constexpr, K_SEL: tl.constexpr, K_DT: tl.constexpr,
    K_N: tl.constexpr, K_OUT: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """dt, scan, gate and a part of out_proj, or without p_parts what goes into it, in the place of z.

    Grid: (sequences, INNER / CHANNELS); x_proj comes in SEL_PARTS.
    """
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = part * CHANNELS + tl.arange(0, CHANNELS)
    p_channels, p_rates, p_dt, _, _, _, p_out = parts(p_weights, layer, D, INNER, SEL, RANK, N, WIDTH)
    dt_bias, skip = load_rows(p_channels + (WIDTH + 1) * INNER + channel, 2, INNER)
    w_dt = load_tile(p_dt + part * CHANNELS * K_DT, RANK, CHANNELS, K_DT, INNER)
    rates = load_tile(p_rates + part * CHANNELS * K_N, N, CHANNELS, K_N, INNER)
    if p_parts is not None:
        w_out = load_tile(p_out + part * CHANNELS * D, CHANNELS, D, K_OUT, D)
    wait_for_launch_before(EARLY)
    p_h = p_ssm + (layer * rows + row) * N * INNER + part * CHANNELS * K_N
    h = load_tile(p_h, N, CHANNELS, K_N, INNER)
    heard, z = tl.load(p_heard + row * INNER + channel), tl.load(p_z + row * INNER + channel)
    tl.debug_barrier()
    selected = sum_of_parts(p_sel_parts, row, SEL_PARTS, SEL)
    y, h = scan_step(h, rates, heard, z, selected, w_dt, dt_bias, skip)
    store_tile(p_h, h, INNER)
    if p_parts is not None:
        p_own = p_parts + (row * (INNER // CHANNELS) + part) * D
        tl.store(p_own + tl.arange(0, D), product(w_out, y))
    else:
        tl.store(p_z + row * INNER + channel, y)


@jit(do_not_specialize=["rows", "layers"])
def close_kernel(
    source, p_skips, p_entered, p_parts, p_out, s_out, rows, layers,
    PARTS: tl.constexpr, D: tl.constexpr, RESIDUAL: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """What leaves a stage. Grid: (sequences,)."""
    row, lane = tl.program_id(0).to(tl.int64), tl.arange(0, D)
    wait_for_launch_before(EARLY)
    x = entering(row, rows, layers, layers, source, p_skips, p_entered, p_parts, PARTS, D)
    if RESIDUAL:
        x += tl.load(p_entered + row * D + lane)
    tl.store(p_out + row * s_out + lane, x)
