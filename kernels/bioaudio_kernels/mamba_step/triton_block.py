# type: ignore  (Triton's language is not Python: pyright cannot type it)
# ruff: noqa: RUF005  (and it has no unpacking)
"""One time step of a Mamba block of one sequence, as the Triton kernels of a stage share it.

All is vectors, and products of a matrix and a vector, in fp32; sizes are powers of two, filled up with zeros.
A matrix lies in memory as [inputs / K, outputs, K], with K such that the lanes of a program, four numbers
each, just cover outputs and K: so a sum over inputs stays inside a warp (see `matrix_lanes`). A vector enters
a product by `tl.gather` of all its places: Triton then leaves each side its own layout, and exchanges the
vector, not the matrix, through shared memory.
"""

from __future__ import annotations

import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from bioaudio_kernels.selective_scan.triton_math import step_size
from bioaudio_kernels.triton_jit import jit
from bioaudio_kernels.triton_vectors import sigmoid


@jit
def tile_at(J: tl.constexpr, OUTPUTS: tl.constexpr, K: tl.constexpr, STRIDE: tl.constexpr):
    """Places of a tile [J, OUTPUTS K] of a matrix that has STRIDE outputs in all."""
    return tl.arange(0, J)[:, None] * (STRIDE * K) + tl.arange(0, OUTPUTS * K)[None, :]


@jit
def load_tile(p, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, K: tl.constexpr, STRIDE: tl.constexpr):
    """A tile as [INPUTS / K, OUTPUTS, K]. Loaded in two dimensions, it gets all lanes along the second."""
    at = tile_at(INPUTS // K, OUTPUTS, K, STRIDE)
    return tl.reshape(tl.load(p + at), [INPUTS // K, OUTPUTS, K])


@jit
def load_selection(p, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, K: tl.constexpr, USED: tl.constexpr):
    """`load_tile` of x_proj, of which only the first outputs are used."""
    at = tile_at(INPUTS // K, OUTPUTS, K, OUTPUTS)
    used = (tl.arange(0, OUTPUTS * K) < USED * K)[None, :]
    return tl.reshape(tl.load(p + at, mask=used, other=0.0), [INPUTS // K, OUTPUTS, K])


@jit
def store_tile(p, tile, STRIDE: tl.constexpr):
    """The reverse of `load_tile`."""
    at = tile_at(tile.shape[0], tile.shape[1], tile.shape[2], STRIDE)
    tl.store(p + at, tl.reshape(tile, [tile.shape[0], tile.shape[1] * tile.shape[2]]))


@jit
def inputs_of(tile, x):
    """A vector over the inputs of a tile, as [INPUTS / K, 1, K] in its lanes."""
    return tl.reshape(tl.gather(x, tl.arange(0, x.shape[0]), 0), [tile.shape[0], 1, tile.shape[2]])


@jit
def sum_over_inputs(tile):
    """[OUTPUTS]: first inside each thread, then over lanes."""
    return tl.sum(tl.sum(tile, 0), 1)


@jit
def product(weight, x):
    """A matrix times a vector."""
    return sum_over_inputs(weight * inputs_of(weight, x))


@jit
def in_proj(w_x, w_z, x, width, eps):
    """The two halves of in_proj, of x / sqrt(mean(x²) + eps), the mean over `width` numbers."""
    x = inputs_of(w_x, x)
    scale = tl.math.rsqrt(sum_over_inputs(x * x) / width + eps)
    return sum_over_inputs(w_x * x) * scale, sum_over_inputs(w_z * x) * scale


@jit
def parts(
    p_weights, layer, D: tl.constexpr, INNER: tl.constexpr, SEL: tl.constexpr, RANK: tl.constexpr,
    N: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Where the weights of a block begin, in the order of `pack_stage`."""
    OF_A_LAYER: tl.constexpr = INNER * (WIDTH + 3 + N + RANK + 2 * D + SEL + D)
    p_channels = p_weights + layer * OF_A_LAYER
    p_rates = p_channels + (WIDTH + 3) * INNER
    p_dt = p_rates + N * INNER
    p_in_x = p_dt + RANK * INNER
    p_in_z = p_in_x + D * INNER
    p_sel = p_in_z + D * INNER
    return p_channels, p_rates, p_dt, p_in_x, p_in_z, p_sel, p_sel + INNER * SEL


@jit
def first_x(row, source, D: tl.constexpr):
    """What enters a stage, as `Source` gives it."""
    p_x, s_x, p_more, s_more, p_tokens, p_labels, p_embeddings, p_classes = source
    lane = tl.arange(0, D)
    if p_tokens is not None:
        x = tl.load(p_embeddings + tl.load(p_tokens + row) * D + lane)
        if p_labels is not None:
            label = tl.load(p_labels + row)
            x += tl.load(p_classes + label * D + lane, mask=(lane >= 0) & (label >= 0), other=0.0)
    else:
        x = tl.load(p_x + row * s_x + lane)
        if p_more is not None:
            x += tl.load(p_more + row * s_more + lane)
    return x


@jit
def wait_for_launch_before(EARLY: tl.constexpr):
    """To be called between the loads of weights and all else by kernels that may start early.

    The launch after this one may then load its weights already; what the launch before wrote is there.
    """
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()


@jit
def load_rows(p, COUNT: tl.constexpr, STRIDE: tl.constexpr):
    """Vectors that lie STRIDE apart, as a tuple."""
    rows = ()
    for k in tl.static_range(COUNT):
        rows = rows + (tl.load(p + k * STRIDE),)
    return rows


@jit
def convolve(now, past, taps, p_conv, STRIDE: tl.constexpr, mask=None):
    """SiLU of the convolution's result; its past moves on in place. `taps` ends with the bias."""
    WIDTH: tl.constexpr = len(past) + 1
    s = taps[WIDTH] + now * taps[WIDTH - 1]
    for k in tl.static_range(WIDTH - 1):
        s += past[k] * taps[k]
        if k > 0:
            tl.store(p_conv + (k - 1) * STRIDE, past[k], mask=mask)
    if WIDTH > 1:
        tl.store(p_conv + (WIDTH - 2) * STRIDE, now, mask=mask)
    return s * sigmoid(s)


@jit
def scan_step(h, rates, heard, z, selected, w_dt, dt_bias, skip):
    """The gated output of the channels, and their new states; h and rates are tiles of states by channels.

    `selected` holds dt in its low rank, and for each state a number of B and one of C.
    """
    RANK: tl.constexpr = w_dt.shape[0] * w_dt.shape[2]
    N: tl.constexpr = h.shape[0] * h.shape[2]
    low_rank = tl.reshape(tl.gather(selected, tl.arange(0, RANK), 0), [w_dt.shape[0], 1, w_dt.shape[2]])
    maps = tl.gather(selected, RANK + tl.arange(0, 2 * N), 0)
    B, C = tl.split(tl.reshape(maps, [h.shape[0], 1, h.shape[2], 2]))
    dt = step_size(sum_over_inputs(w_dt * low_rank) + dt_bias, True)
    h = h * tl.exp2(rates * dt[None, :, None]) + B * (dt * heard)[None, :, None]
    y = sum_over_inputs(h * C) + heard * skip
    return y * (z * sigmoid(z)), h
