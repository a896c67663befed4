"""The selective scan, compiled for the CPU by numba.

A task is one sequence and one block of channels; it walks through time in tiles. A tile's step sizes and
inputs are first brought into small buffers [step][channel]; the recurrence then runs over them eight
channels at a time, with the states of those channels in the first-level cache. Packed sequences are tasks of
their own, and a reversed scan walks with negative strides.

Arrays are flat float32. x, dt and z keep their own strides over batch and length, in elements; A and all
states lie as [value][d_inner], so that neighbouring lanes are neighbouring channels.
"""

from __future__ import annotations

import numpy as np

from bioaudio_kernels.blocks import CHANNELS, TILE, block_of, gather, scatter
from bioaudio_kernels.compiled import kernel
from bioaudio_kernels.lane_math import load_some, sigmoid, softplus_and_sigmoid, store_some
from bioaudio_kernels.selective_scan import cpu_complex_states, cpu_real_states
from bioaudio_kernels.selective_scan.cpu_maps import fill_lanes, groups_change
from bioaudio_kernels.simd import LANES, fma, load, store

_advance_real = cpu_real_states.advance
_advance_complex = cpu_complex_states.advance


@kernel
def forward(first_task, last_task, spans, sizes, inputs, strides, options, state, checkpoints, y):
    """Write y and bring `state` to the end of each sequence, for tasks first_task to last_task - 1.

    Args:
        spans: [sequence][4]: row of the batch, first step, number of steps, first checkpoint.
        sizes: (length, d_inner, d_state, channels of B that share a group, the same of C).
        inputs: x, dt, rates, B, C, D, z, dt_bias; rates is A as `cpu_real_states` or `cpu_complex_states`
            wants it; z is not read unless gated.
        strides: (batch, length) strides of x, dt, z, B and C.
        options: (whether A is complex, dt_softplus, gated, whether to keep checkpoints, 1 or -1 if reversed).
        state: [sequence][value][d_inner], changed in place.
        checkpoints: [checkpoint][value][d_inner], the state before each tile.
        y: [batch][length][d_inner].
    """
    length, d_inner, d_state, B_share, C_share = sizes
    x, dt, A, B, C, D, z, dt_bias = inputs
    x_strides, dt_strides, z_strides, B_strides, C_strides = strides
    is_complex, softplus, gated, keep, direction = options
    values = 2 * d_state if is_complex else d_state
    n_rates = 3 * d_state if is_complex else d_state
    deltas = np.empty(TILE * CHANNELS, np.float32)
    impulses = np.empty(TILE * CHANNELS, np.float32)
    outputs = np.empty(TILE * CHANNELS, np.float32)
    rates = np.empty(n_rates * CHANNELS, np.float32)
    h = np.empty(values * CHANNELS, np.float32)
    B_lanes = np.empty(TILE * values * LANES, np.float32)
    C_lanes = np.empty(TILE * values * LANES, np.float32)
    x_step, dt_step, z_step = direction * x_strides[1], direction * dt_strides[1], direction * z_strides[1]
    B_step, C_step = direction * B_strides[1], direction * C_strides[1]
    y_step = direction * d_inner
    B_lane_step = values * LANES if B_step != 0 else 0
    C_lane_step = values * LANES if C_step != 0 else 0
    for task in range(first_task, last_task):
        sequence, channel, width = block_of(task, d_inner)
        span = spans[sequence]
        b, first, count, checkpoint = span[0], span[1], span[2], span[3]
        state_start = sequence * values * d_inner + channel
        gather(rates, n_rates, A, channel, d_inner, width)
        gather(h, values, state, state_start, d_inner, width)
        for tile in range((count + TILE - 1) // TILE):
            start = first + direction * tile * TILE
            steps = min(TILE, count - tile * TILE)
            x_start = b * x_strides[0] + start * x_strides[1] + channel
            dt_start = b * dt_strides[0] + start * dt_strides[1] + channel
            z_start = b * z_strides[0] + start * z_strides[1] + channel
            B_start = b * B_strides[0] + start * B_strides[1]
            C_start = b * C_strides[0] + start * C_strides[1]
            y_start = (b * length + start) * d_inner + channel
            if keep:
                tile_start = (checkpoint + tile) * values * d_inner + channel
                scatter(h, values, checkpoints, tile_start, d_inner, width)
            for t in range(steps):
                for c in range(0, width, LANES):
                    x_t = load_some(x, x_start + t * x_step + c, width - c)
                    delta = load_some(dt, dt_start + t * dt_step + c, width - c)
                    delta = delta + load_some(dt_bias, channel + c, width - c)
                    if softplus:
                        delta, _ = softplus_and_sigmoid(delta)
                    store(deltas, t * CHANNELS + c, delta)
                    store(impulses, t * CHANNELS + c, delta * x_t)
            ahead = (
                (x, x_start + TILE * x_step, x_step),
                (dt, dt_start + TILE * dt_step, dt_step),
                (z, z_start, z_step),
            )
            for c in range(0, width, LANES):
                lanes = min(LANES, width - c)
                if groups_change(channel, c, lanes, B_share):
                    rows = steps if B_step != 0 else 1
                    fill_lanes(B_lanes, B, B_start, B_step, rows, values, channel + c, lanes, B_share)
                if groups_change(channel, c, lanes, C_share):
                    rows = steps if C_step != 0 else 1
                    fill_lanes(C_lanes, C, C_start, C_step, rows, values, channel + c, lanes, C_share)
                maps = (B_lanes, B_lane_step, C_lanes, C_lane_step)
                given = (steps, c, ahead, d_state, deltas, impulses, rates, h)
                if is_complex:
                    _advance_complex(*given, *maps, outputs)
                else:
                    _advance_real(*given, *maps, outputs)
            for t in range(steps):
                for c in range(0, width, LANES):
                    x_t = load_some(x, x_start + t * x_step + c, width - c)
                    skip = load_some(D, channel + c, width - c)
                    output = fma(skip, x_t, load(outputs, t * CHANNELS + c))
                    if gated:
                        gate = load_some(z, z_start + t * z_step + c, width - c)
                        output = output * gate * sigmoid(gate)
                    store_some(y, y_start + t * y_step + c, output, width - c)
        scatter(h, values, state, state_start, d_inner, width)
