"""The selective scan, compiled for the CPU by numba.

A task is one sequence and one block of channels; it walks through time in tiles. A tile's step sizes and
inputs are first brought into small buffers [step][channel]; the recurrence then runs over them eight
channels at a time, with the states of those channels in the first-level cache.

Arrays are flat float32. x, dt and z keep their own strides over batch and length, in elements; A and all
states lie as [d_state][d_inner], so that neighbouring lanes are neighbouring channels.
"""

from __future__ import annotations

import numpy as np

from bioaudio_kernels.blocks import CHANNELS, TILE, block_of, gather, scatter
from bioaudio_kernels.compiled import kernel
from bioaudio_kernels.lane_math import exp2, load_some, sigmoid, softplus_and_sigmoid, store_some
from bioaudio_kernels.simd import LANES, fma, load, prefetch, splat, splat_at, store

_ZERO = np.float32(0)


@kernel
def forward(first_task, last_task, sizes, inputs, strides, options, state, checkpoints, y):
    """Write y and bring `state` to the end of the sequence, for tasks first_task to last_task - 1.

    Args:
        sizes: (batch, length, d_inner, d_state).
        inputs: x, dt, A * log2(e), B, C, D, z, dt_bias; z is not read unless gated.
        strides: (batch, length) strides of x, dt and z.
        options: (dt_softplus, gated, whether to keep checkpoints).
        state: [batch][d_state][d_inner], changed in place.
        checkpoints: [batch][tile][d_state][d_inner], the state before each tile.
        y: [batch][length][d_inner].
    """
    _, length, d_inner, d_state = sizes
    x, dt, A, B, C, D, z, dt_bias = inputs
    x_strides, dt_strides, z_strides = strides
    softplus, gated, keep = options
    tiles = (length + TILE - 1) // TILE
    deltas = np.empty(TILE * CHANNELS, np.float32)
    impulses = np.empty(TILE * CHANNELS, np.float32)
    outputs = np.empty(TILE * CHANNELS, np.float32)
    rates = np.empty(d_state * CHANNELS, np.float32)
    h = np.empty(d_state * CHANNELS, np.float32)
    for task in range(first_task, last_task):
        b, channel, width = block_of(task, d_inner)
        gather(rates, d_state, A, channel, d_inner, width)
        gather(h, d_state, state, b * d_state * d_inner + channel, d_inner, width)
        for tile in range(tiles):
            start = tile * TILE
            steps = min(TILE, length - start)
            x_start = b * x_strides[0] + start * x_strides[1] + channel
            dt_start = b * dt_strides[0] + start * dt_strides[1] + channel
            z_start = b * z_strides[0] + start * z_strides[1] + channel
            y_start = (b * length + start) * d_inner + channel
            if keep:
                checkpoint = (b * tiles + tile) * d_state * d_inner + channel
                scatter(h, d_state, checkpoints, checkpoint, d_inner, width)
            for t in range(steps):
                for c in range(0, width, LANES):
                    x_t = load_some(x, x_start + t * x_strides[1] + c, width - c)
                    delta = load_some(dt, dt_start + t * dt_strides[1] + c, width - c)
                    delta = delta + load_some(dt_bias, channel + c, width - c)
                    if softplus:
                        delta, _ = softplus_and_sigmoid(delta)
                    store(deltas, t * CHANNELS + c, delta)
                    store(impulses, t * CHANNELS + c, delta * x_t)
            for c in range(0, width, LANES):
                for t in range(steps):
                    delta = load(deltas, t * CHANNELS + c)
                    impulse = load(impulses, t * CHANNELS + c)
                    prefetch(x, x_start + (TILE + t) * x_strides[1] + c)
                    prefetch(dt, dt_start + (TILE + t) * dt_strides[1] + c)
                    if gated:
                        prefetch(z, z_start + t * z_strides[1] + c)
                    output = splat(_ZERO)
                    row = (b * length + start + t) * d_state
                    for n in range(d_state):
                        decay = exp2(delta * load(rates, n * CHANNELS + c))
                        h_n = fma(decay, load(h, n * CHANNELS + c), impulse * splat_at(B, row + n))
                        store(h, n * CHANNELS + c, h_n)
                        output = fma(h_n, splat_at(C, row + n), output)
                    store(outputs, t * CHANNELS + c, output)
            for t in range(steps):
                for c in range(0, width, LANES):
                    x_t = load_some(x, x_start + t * x_strides[1] + c, width - c)
                    skip = load_some(D, channel + c, width - c)
                    output = fma(skip, x_t, load(outputs, t * CHANNELS + c))
                    if gated:
                        gate = load_some(z, z_start + t * z_strides[1] + c, width - c)
                        output = output * gate * sigmoid(gate)
                    store_some(y, y_start + t * d_inner + c, output, width - c)
        scatter(h, d_state, state, b * d_state * d_inner + channel, d_inner, width)
