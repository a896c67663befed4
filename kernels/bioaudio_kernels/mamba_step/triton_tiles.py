# type: ignore  (Triton's language is not Python: pyright cannot type it)
"""Products of matrices in a time step of many sequences on Triton: a program has a tile of rows.

They are as exact as fp32: "tf32x3" makes three products of parts of the numbers that tensor cores take whole.
"""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.mamba_step.triton_block import convolve, first_x, load_rows, parts
from bioaudio_kernels.triton_jit import jit


@jit
def place_of(input, output, K: tl.constexpr, STRIDE: tl.constexpr):
    """Of an element of a matrix that has STRIDE outputs in all, in the layout of `triton_block`."""
    return (input // K * (STRIDE * K) + input % K)[:, None] + (output * K)[None, :]


@jit
def begin_kernel(source, p_entered, D: tl.constexpr):
    """What enters a stage. Grid: (sequences,)."""
    row = tl.program_id(0).to(tl.int64)
    tl.store(p_entered + row * D + tl.arange(0, D), first_x(row, source, D))


@jit(do_not_specialize=["rows", "layer"])
def enter_tiles_kernel(
    p_entered, p_sel_parts, p_heard, p_z, p_weights, p_conv, rows, layer, width, eps,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, CHUNK: tl.constexpr, D: tl.constexpr, INNER: tl.constexpr,
    SEL: tl.constexpr, RANK: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr, K_IN: tl.constexpr,
    K_SEL: tl.constexpr, K_DT: tl.constexpr, K_N: tl.constexpr, K_OUT: tl.constexpr,
):  # fmt: skip
    """What `enter_kernel` does. Grid: (INNER / CHANNELS, blocks of ROWS sequences)."""
    part = tl.program_id(0)
    channel = part * CHANNELS + tl.arange(0, CHANNELS)
    row = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = (row < rows)[:, None]
    slot = layer * rows + row
    p_channels, _, _, p_in_x, p_in_z, p_sel, _ = parts(p_weights, layer, D, INNER, SEL, RANK, N, WIDTH)
    squares = tl.zeros([ROWS], tl.float32)
    now = tl.zeros([ROWS, CHANNELS], tl.float32)
    z = tl.zeros([ROWS, CHANNELS], tl.float32)
    for start in range(0, D, CHUNK):
        input = start + tl.arange(0, CHUNK)
        x = tl.load(p_entered + (slot * D)[:, None] + input[None, :], mask=inside, other=0.0)
        at = place_of(input, channel, K_IN, INNER)
        squares += tl.sum(x * x, 1)
        now = tl.dot(x, tl.load(p_in_x + at), now, input_precision="tf32x3")
        z = tl.dot(x, tl.load(p_in_z + at), z, input_precision="tf32x3")
    scale = tl.math.rsqrt(squares / width + eps)[:, None]
    at = (row * INNER)[:, None] + channel[None, :]
    tl.store(p_z + at, z * scale, mask=inside)
    p_past = p_conv + (slot * ((WIDTH - 1) * INNER))[:, None] + channel[None, :]
    past = load_rows(p_past, WIDTH - 1, INNER, inside)
    tl.debug_barrier()  # several threads may have read what one of them overwrites
    taps = load_rows(p_channels + channel[None, :], WIDTH + 1, INNER)
    heard = convolve(now * scale, past, taps, p_past, INNER, inside)
    tl.store(p_heard + at, heard, mask=inside)
    output = tl.arange(0, SEL)
    w_sel = tl.load(p_sel + place_of(channel, output, K_SEL, SEL), mask=(output < RANK + 2 * N)[None, :], other=0.0)
    selected = tl.dot(heard, w_sel, input_precision="tf32x3")
    slot = row * (INNER // CHANNELS) + part
    tl.store(p_sel_parts + (slot * SEL)[:, None] + output[None, :], selected, mask=inside)


@jit(do_not_specialize=["rows"])
def project_kernel(
    p_x, p_weight, addends, p_y, s_y, rows, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, CHUNK: tl.constexpr,
    WIDTH_IN: tl.constexpr, WIDTH_OUT: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """y = weight x and what is to be added. Grid: (WIDTH_OUT / OUTPUTS, blocks of ROWS sequences)."""
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    row = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = (row < rows)[:, None]
    y = tl.zeros([ROWS, OUTPUTS], tl.float32)
    for start in range(0, WIDTH_IN, CHUNK):
        input = start + tl.arange(0, CHUNK)
        x = tl.load(p_x + (row * WIDTH_IN)[:, None] + input[None, :], mask=inside, other=0.0)
        weight = tl.load(p_weight + place_of(input, output, K, WIDTH_OUT))
        y = tl.dot(x, weight, y, input_precision="tf32x3")
    for i in tl.static_range(len(addends)):
        p, stride = addends[i]
        y += tl.load(p + (row * stride)[:, None] + output[None, :], mask=inside, other=0.0)
    tl.store(p_y + (row * s_y)[:, None] + output[None, :], y, mask=inside)
