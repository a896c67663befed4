# type: ignore  (Triton's language is not Python: pyright cannot type it)
"""One time step of a Mamba block of one sequence, as the Triton kernels of a stage share it.

All is vectors, and products of a matrix and a vector, in fp32. A matrix lies in memory as [inputs / 4,
outputs, 4]: a lane reads four inputs of an output at once, neighbours read neighbouring outputs, and the sum
over the inputs stays inside a thread as far as threads go. Sizes are powers of two, filled up with zeros. A
vector enters a product by `tl.gather` of all its places: Triton then leaves each side its own layout, and
exchanges the vector, not the matrix, through shared memory.
"""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.selective_scan.triton_math import step_size
from bioaudio_kernels.triton_jit import jit
from bioaudio_kernels.triton_vectors import sigmoid


@jit
def tile_at(ROWS: tl.constexpr, COLUMNS: tl.constexpr, STRIDE: tl.constexpr):
    """Places of a tile [ROWS, 4 COLUMNS] of a matrix whose rows are 4 STRIDE apart."""
    return tl.arange(0, ROWS)[:, None] * (4 * STRIDE) + tl.arange(0, 4 * COLUMNS)[None, :]


@jit
def load_tile(p, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STRIDE: tl.constexpr):
    """A tile as [ROWS, COLUMNS, 4]. Loaded in two dimensions, it gets all lanes along columns first."""
    return tl.reshape(tl.load(p + tile_at(ROWS, COLUMNS, STRIDE)), [ROWS, COLUMNS, 4])


@jit
def store_tile(p, tile, STRIDE: tl.constexpr):
    """The reverse of `load_tile`."""
    at = tile_at(tile.shape[0], tile.shape[1], STRIDE)
    tl.store(p + at, tl.reshape(tile, [tile.shape[0], 4 * tile.shape[1]]))


@jit
def product(weight, x):
    """[inputs / 4, outputs, 4] times [inputs]."""
    everywhere = tl.gather(x, tl.arange(0, x.shape[0]), 0)
    return tl.sum(tl.sum(weight * tl.reshape(everywhere, [weight.shape[0], 1, 4]), 2), 0)


@jit
def rms_norm(x, weight, width, eps):
    """x / sqrt(mean(x²) + eps) * weight, of `width` numbers and zeros."""
    return x * tl.math.rsqrt(tl.sum(x * x, 0) / width + eps) * weight


@jit
def parts(
    p_weights, layer, D: tl.constexpr, INNER: tl.constexpr, SEL: tl.constexpr, RANK: tl.constexpr,
    N: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Where the weights of a block begin, in the order of `pack_stage`."""
    OF_A_LAYER: tl.constexpr = D + INNER * (WIDTH + 3 + N + RANK + 2 * D + SEL + D)
    p_norm = p_weights + layer * OF_A_LAYER
    p_channels = p_norm + D
    p_rates = p_channels + (WIDTH + 3) * INNER
    p_dt = p_rates + N * INNER
    p_in = p_dt + RANK * INNER
    p_sel = p_in + 2 * D * INNER
    return p_norm, p_channels, p_rates, p_dt, p_in, p_sel, p_sel + INNER * SEL


@jit
def first_x(row, source, D: tl.constexpr):
    """What enters a stage, as `Source` gives it."""
    p_x, s_x, p_more, s_more, p_tokens, p_labels, p_embeddings, p_classes = source
    lane = tl.arange(0, D)
    if p_tokens is not None:
        x = tl.load(p_embeddings + tl.load(p_tokens + row) * D + lane)
        if p_labels is not None:
            x += tl.load(p_classes + tl.load(p_labels + row) * D + lane)
    else:
        x = tl.load(p_x + row * s_x + lane)
        if p_more is not None:
            x += tl.load(p_more + row * s_more + lane)
    return x


@jit
def load_past(p_conv, INNER: tl.constexpr, WIDTH: tl.constexpr):
    """The last inputs of the convolution, oldest first."""
    past = ()
    for k in tl.static_range(WIDTH - 1):
        past = past + (tl.load(p_conv + k * INNER),)
    return past


@jit
def convolve(now, past, p_conv, p_channels, INNER: tl.constexpr, WIDTH: tl.constexpr):
    """SiLU of the convolution's result; its past moves on in place.

    The past was loaded before the product that made `now`, whose barriers lie between: more than one thread
    may have read what one of them now overwrites.
    """
    s = tl.load(p_channels + WIDTH * INNER) + now * tl.load(p_channels + (WIDTH - 1) * INNER)
    for k in tl.static_range(WIDTH - 1):
        s += past[k] * tl.load(p_channels + k * INNER)
        if k > 0:
            tl.store(p_conv + (k - 1) * INNER, past[k])
    if WIDTH > 1:
        tl.store(p_conv + (WIDTH - 2) * INNER, now)
    return s * sigmoid(s)


@jit
def scan_step(
    h, rates, heard, z, selected, dt_weight, p_channels, INNER: tl.constexpr, WIDTH: tl.constexpr
):
    """The gated output of the channels, and their new states; h and rates are [states / 4, channels, 4].

    `selected` holds dt in its low rank, B and C.
    """
    RANK: tl.constexpr = 4 * dt_weight.shape[0]
    N: tl.constexpr = 4 * h.shape[0]
    low_rank = tl.gather(selected, tl.arange(0, RANK), 0)
    B = tl.reshape(tl.gather(selected, RANK + tl.arange(0, N), 0), [N // 4, 1, 4])
    C = tl.reshape(tl.gather(selected, RANK + N + tl.arange(0, N), 0), [N // 4, 1, 4])
    raw = tl.sum(tl.sum(dt_weight * tl.reshape(low_rank, [RANK // 4, 1, 4]), 2), 0)
    dt = step_size(raw + tl.load(p_channels + (WIDTH + 1) * INNER), True)
    h = h * tl.exp2(rates * dt[None, :, None]) + B * (dt * heard)[None, :, None]
    y = tl.sum(tl.sum(h * C, 2), 0) + heard * tl.load(p_channels + (WIDTH + 2) * INNER)
    return y * (z * sigmoid(z)), h
