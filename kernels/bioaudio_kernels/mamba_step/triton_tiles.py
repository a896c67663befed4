# type: ignore  (Triton's language is not Python: pyright cannot type it)
"""Products of matrices in a time step of many sequences on Triton: a program has a tile of rows.

About as exact as fp32: "tf32x3" sums up three products, of the two halves of each number that tensor cores
take whole.
A tile that ends beyond the last row has that row several times, and stores it once.
"""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.mamba_step.triton_block import convolve, first_x, load_rows, parts
from bioaudio_kernels.triton_jit import jit


@jit
def rows_of_tile(rows, ROWS: tl.constexpr):
    """Numbers of the rows of a tile, and as a column whether it stores them."""
    row = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    return tl.minimum(row, rows - 1), (row < rows)[:, None]


@jit
def places(row, lane, stride):
    """Of some lanes of rows that lie `stride` apart."""
    return (row * stride)[:, None] + lane[None, :]


@jit
def weight_places(input, output, K: tl.constexpr, STRIDE: tl.constexpr):
    """Of a matrix that has STRIDE outputs in all, laid out as `triton_block` says."""
    return (input // K * (STRIDE * K) + input % K)[:, None] + (output * K)[None, :]


@jit
def begin_kernel(source, p_entered, D: tl.constexpr):
    """What enters a stage. Grid: (sequences,)."""
    row = tl.program_id(0).to(tl.int64)
    tl.store(p_entered + row * D + tl.arange(0, D), first_x(row, source, D))


@jit(do_not_specialize=["rows", "layer"])
def enter_tiles_kernel(
    p_entered, p_sel_parts, p_heard, p_z, p_weights, p_conv, rows, layer, width, eps, ROWS: tl.constexpr,
    CHANNELS: tl.constexpr, CHUNK: tl.constexpr, D: tl.constexpr, INNER: tl.constexpr, SEL: tl.constexpr,
    RANK: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr, K_IN: tl.constexpr, K_SEL: tl.constexpr,
    K_DT: tl.constexpr, K_N: tl.constexpr, K_OUT: tl.constexpr,
):  # fmt: skip
    """What `enter_kernel` does. Grid: (INNER / CHANNELS, tiles of ROWS sequences)."""
    PARTS: tl.constexpr = INNER // CHANNELS
    part, output = tl.program_id(0), tl.arange(0, SEL)
    channel = part * CHANNELS + tl.arange(0, CHANNELS)
    row, inside = rows_of_tile(rows, ROWS)
    slot = layer * rows + row
    p_channels, _, _, p_in_x, p_in_z, p_sel, _ = parts(p_weights, layer, D, INNER, SEL, RANK, N, WIDTH)
    squares = tl.zeros([ROWS], tl.float32)
    now = tl.zeros([ROWS, CHANNELS], tl.float32)
    z = tl.zeros([ROWS, CHANNELS], tl.float32)
    for start in range(0, D, CHUNK):
        input = start + tl.arange(0, CHUNK)
        x = tl.load(p_entered + places(slot, input, D))
        squares += tl.sum(x * x, 1)
        weight = weight_places(input, channel, K_IN, INNER)
        now = tl.dot(x, tl.load(p_in_x + weight), now, input_precision="tf32x3")
        z = tl.dot(x, tl.load(p_in_z + weight), z, input_precision="tf32x3")
    scale = tl.math.rsqrt(squares / width + eps)[:, None]
    p_past = p_conv + places(slot, channel, (WIDTH - 1) * INNER)
    past = load_rows(p_past, WIDTH - 1, INNER)
    taps = load_rows(p_channels + channel[None, :], WIDTH + 1, INNER)
    tl.debug_barrier()  # several threads may have read what one of them overwrites
    heard = convolve(now * scale, past, taps, p_past, INNER, inside)
    here = places(row, channel, INNER)
    tl.store(p_heard + here, heard, mask=inside)
    tl.store(p_z + here, z * scale, mask=inside)
    used = (output < RANK + 2 * N)[None, :]
    w_sel = tl.load(p_sel + weight_places(channel, output, K_SEL, SEL), mask=used, other=0.0)
    selected = tl.dot(heard, w_sel, input_precision="tf32x3")
    tl.store(p_sel_parts + places(row * PARTS + part, output, SEL), selected, mask=inside)


@jit(do_not_specialize=["rows"])
def project_kernel(
    p_x, p_weight, addends, strides, p_y, s_y, rows, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    CHUNK: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """y = weight x and all addends, each with its stride. Grid: (OUTPUTS / BLOCK, tiles of ROWS rows)."""
    output = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row, inside = rows_of_tile(rows, ROWS)
    y = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, INPUTS, CHUNK):
        input = start + tl.arange(0, CHUNK)
        weight = tl.load(p_weight + weight_places(input, output, K, OUTPUTS))
        y = tl.dot(tl.load(p_x + places(row, input, INPUTS)), weight, y, input_precision="tf32x3")
    for i in tl.static_range(len(addends)):
        y += tl.load(addends[i] + places(row, output, strides[i]))
    tl.store(p_y + places(row, output, s_y), y, mask=inside)
