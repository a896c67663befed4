"""The causal depthwise convolution and its gradient, compiled for the CPU by numba.

A task is one sequence and one block of channels; it goes through time in tiles, eight channels at a time.
Sequence i has rows borders[i] to borders[i + 1] - 1 of what is contiguous. Arrays are flat float32; x and the
gradient of y lie in memory in their own way: an array, where in it each sequence starts, and the stride of a
step, in elements. The filter lies as [width][channels]. The input at time t < 0 is row width - 1 + t of the
state.
"""

from __future__ import annotations

import numpy as np

from bioaudio_kernels.blocks import CHANNELS, TILE, block_of, gather, scatter
from bioaudio_kernels.compiled import kernel
from bioaudio_kernels.lane_math import load_some, sigmoid, store_some
from bioaudio_kernels.simd import LANES, fma, load, splat, store

_ZERO, _ONE = np.float32(0), np.float32(1)


@kernel
def forward(first_task, last_task, sizes, borders, x, x_starts, x_stride, weight, bias, state, silu, y):
    """Write y [rows][channels], for tasks first_task to last_task - 1.

    Args:
        sizes: (channels, width).
        borders: [sequences + 1].
        x, x_starts, x_stride: the input and how it lies.
        weight, bias: [width][channels] and [channels].
        state: [sequences][width - 1][channels].
        silu: whether to apply SiLU.
        y: the result.
    """
    channels, width = sizes
    taps = np.empty(width * CHANNELS, np.float32)
    for task in range(first_task, last_task):
        b, channel, lanes = block_of(task, channels)
        gather(taps, width, weight, channel, channels, lanes)
        first_row, length = borders[b], borders[b + 1] - borders[b]
        x_start = x_starts[b] + channel
        state_start = b * (width - 1) * channels + channel
        for start in range(0, length, TILE):
            for c in range(0, lanes, LANES):
                for t in range(start, min(start + TILE, length)):
                    total = load_some(bias, channel + c, lanes - c)
                    for k in range(width):
                        source = t - (width - 1) + k
                        if source >= 0:
                            value = load_some(x, x_start + source * x_stride + c, lanes - c)
                        else:
                            value = load_some(state, state_start + (t + k) * channels + c, lanes - c)
                        total = fma(load(taps, k * CHANNELS + c), value, total)
                    if silu:
                        total = total * sigmoid(total)
                    store_some(y, (first_row + t) * channels + channel + c, total, lanes - c)


@kernel
def backward(
    first_task,
    last_task,
    sizes,
    borders,
    x,
    x_starts,
    x_stride,
    weight,
    bias,
    state,
    silu,
    dy,
    dy_starts,
    dy_stride,
    gradients,
):
    """Write the gradients that come from y; those that come from the final state are the caller's to add.

    Args:
        sizes to silu: as in `forward`.
        dy, dy_starts, dy_stride: gradient of y and how it lies.
        gradients: dx [rows][channels], dweight [sequences][width][channels], dbias [sequences][channels],
            dstate [sequences][width - 1][channels].
    """
    channels, width = sizes
    dx, dweight, dbias, dstate = gradients
    taps = np.empty(width * CHANNELS, np.float32)
    dtaps = np.empty(width * CHANNELS, np.float32)
    dtaps_tile = np.empty(width * LANES, np.float32)
    doffset = np.empty(CHANNELS, np.float32)
    recent = np.empty(width * CHANNELS, np.float32)  # gradients of the last `width` sums, a ring
    for task in range(first_task, last_task):
        b, channel, lanes = block_of(task, channels)
        gather(taps, width, weight, channel, channels, lanes)
        first_row, length = borders[b], borders[b + 1] - borders[b]
        x_start = x_starts[b] + channel
        dy_start = dy_starts[b] + channel
        state_start = b * (width - 1) * channels + channel
        dtaps[:] = _ZERO
        doffset[:] = _ZERO
        recent[:] = _ZERO
        # Input s feeds the sums s to s + width - 1: its gradient is complete `width - 1` steps later.
        for start in range(0, length + width - 1, TILE):
            for c in range(0, lanes, LANES):
                for k in range(width):
                    store(dtaps_tile, k * LANES, splat(_ZERO))
                doffset_tile = splat(_ZERO)
                for t in range(start, min(start + TILE, length + width - 1)):
                    dtotal = splat(_ZERO)
                    if t < length:
                        dtotal = load_some(dy, dy_start + t * dy_stride + c, lanes - c)
                        if silu:
                            total = load_some(bias, channel + c, lanes - c)
                            for k in range(width):
                                source = t - (width - 1) + k
                                if source >= 0:
                                    value = load_some(x, x_start + source * x_stride + c, lanes - c)
                                else:
                                    value = load_some(state, state_start + (t + k) * channels + c, lanes - c)
                                total = fma(load(taps, k * CHANNELS + c), value, total)
                            s = sigmoid(total)
                            dtotal = dtotal * s * fma(total, _ONE - s, _ONE)
                        doffset_tile = doffset_tile + dtotal
                        for k in range(width):
                            source = t - (width - 1) + k
                            if source >= 0:
                                value = load_some(x, x_start + source * x_stride + c, lanes - c)
                            else:
                                value = load_some(state, state_start + (t + k) * channels + c, lanes - c)
                            store(dtaps_tile, k * LANES, fma(dtotal, value, load(dtaps_tile, k * LANES)))
                    store(recent, t % width * CHANNELS + c, dtotal)
                    source = t - (width - 1)
                    dinput = splat(_ZERO)
                    for k in range(width):
                        # The sum at source + width - 1 - k = t - k took this input through tap k.
                        slot = (t - k + width) % width
                        dinput = fma(load(taps, k * CHANNELS + c), load(recent, slot * CHANNELS + c), dinput)
                    if source >= 0:
                        store_some(dx, (first_row + source) * channels + channel + c, dinput, lanes - c)
                    else:
                        store_some(dstate, state_start + t * channels + c, dinput, lanes - c)
                store(doffset, c, load(doffset, c) + doffset_tile)
                for k in range(width):
                    at = k * CHANNELS + c
                    store(dtaps, at, load(dtaps, at) + load(dtaps_tile, k * LANES))
        scatter(dtaps, width, dweight, b * width * channels + channel, channels, lanes)
        scatter(doffset, 1, dbias, b * channels + channel, channels, lanes)
