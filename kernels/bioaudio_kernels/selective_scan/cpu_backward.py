"""The gradient of the selective scan, compiled for the CPU by numba.

Tiles are taken from last to first. A tile is run again from its checkpoint, this time keeping its decays and
states (of eight channels at a time, so in cache); then the recurrence of the gradient runs over it backwards.
With g_t the gradient of h_t, w_t that of the ungated output, and q_t = g_t decay_t h_{t-1} that of log
decay_t:

    g_t = C_t w_t + decay_{t+1} g_{t+1}        d impulse_t = sum_n B_t g_t        (impulse = delta x)
    dB_t = sum_d g_t impulse_t                 d delta_t   = x_t d impulse_t + sum_n A q_t
    dC_t = sum_d h_t w_t                       dA          = sum_t delta_t q_t

B and C are shared by channels: each block of channels writes its own sum, and the caller adds the blocks,
always in the same order. Layouts are those of `cpu_forward`.
"""

from __future__ import annotations

import numpy as np

from bioaudio_kernels.blocks import CHANNELS, TILE, block_of, gather, scatter
from bioaudio_kernels.compiled import kernel
from bioaudio_kernels.lane_math import load_some, sigmoid, softplus_and_sigmoid, store_some
from bioaudio_kernels.selective_scan import cpu_complex_states, cpu_real_states
from bioaudio_kernels.selective_scan.cpu_maps import add_lanes, fill_lanes, groups_change
from bioaudio_kernels.simd import LANES, fma, load, splat, store

_ZERO, _ONE = np.float32(0), np.float32(1)
_replay_real, _retreat_real = cpu_real_states.replay, cpu_real_states.retreat
_replay_complex, _retreat_complex = cpu_complex_states.replay, cpu_complex_states.retreat


@kernel
def backward(
    first_task, last_task, spans, sizes, inputs, strides, options,
    checkpoints, dy, dy_strides, dstate, gradients,
):  # fmt: skip
    """Write `gradients`; turn `dstate` from the gradient of the final state into that of the initial one.

    Args:
        spans, sizes, inputs, strides: as in `forward`.
        options: (whether A is complex, dt_softplus, gated, whether dt varies in time, 1 or -1 if reversed).
        checkpoints: [checkpoint][value][d_inner], from `forward`.
        dy: gradient of y with its (batch, length) strides.
        dstate: [sequence][value][d_inner], changed in place.
        gradients: dx, ddt, dz [batch][length][d_inner]; dA [sequence][value][d_inner]; dB, dC
            [slot][batch * length][group][value], or [1][sequence][d_inner][value] if constant in time, to be
            added to; dD, d dt_bias [sequence][d_inner]. dz is not written unless gated, nor ddt unless dt
            varies.
    """
    length, d_inner, d_state, B_share, C_share = sizes
    x, dt, A, B, C, D, z, dt_bias = inputs
    x_strides, dt_strides, z_strides, B_strides, C_strides = strides
    is_complex, softplus, gated, dt_varies, direction = options
    dx, ddt, dz, dA, dB, dC, dB_slot, dC_slot, dD, ddt_bias = gradients
    values = 2 * d_state if is_complex else d_state
    n_rates = 3 * d_state if is_complex else d_state
    deltas = np.empty(TILE * CHANNELS, np.float32)
    slopes = np.empty(TILE * CHANNELS, np.float32)
    impulses = np.empty(TILE * CHANNELS, np.float32)
    outputs = np.empty(TILE * CHANNELS, np.float32)
    doutputs = np.empty(TILE * CHANNELS, np.float32)
    dimpulses = np.empty(TILE * CHANNELS, np.float32)
    ddeltas = np.empty(TILE * CHANNELS, np.float32)
    rates = np.empty(n_rates * CHANNELS, np.float32)
    h_start = np.empty(values * CHANNELS, np.float32)
    g = np.empty(values * CHANNELS, np.float32)
    drates = np.empty(values * CHANNELS, np.float32)
    drates_tile = np.empty(values * LANES, np.float32)
    dskip = np.empty(CHANNELS, np.float32)
    dbias = np.empty(CHANNELS, np.float32)
    dskip_tile = np.empty(CHANNELS, np.float32)
    dbias_tile = np.empty(CHANNELS, np.float32)
    decays = np.empty(TILE * values * LANES, np.float32)
    h = np.empty((TILE + 1) * values * LANES, np.float32)
    B_lanes = np.empty(TILE * values * LANES, np.float32)
    C_lanes = np.empty(TILE * values * LANES, np.float32)
    dB_lanes = np.empty(TILE * values * LANES, np.float32)
    dC_lanes = np.empty(TILE * values * LANES, np.float32)
    x_step, dt_step, z_step = direction * x_strides[1], direction * dt_strides[1], direction * z_strides[1]
    dy_step, out_step = direction * dy_strides[1], direction * d_inner
    B_step, C_step = direction * B_strides[1], direction * C_strides[1]
    B_lane_step = values * LANES if B_step != 0 else 0
    C_lane_step = values * LANES if C_step != 0 else 0
    for task in range(first_task, last_task):
        sequence, channel, width = block_of(task, d_inner)
        span = spans[sequence]
        b, first, count, checkpoint = span[0], span[1], span[2], span[3]
        state_start = sequence * values * d_inner + channel
        gather(rates, n_rates, A, channel, d_inner, width)
        gather(g, values, dstate, state_start, d_inner, width)
        drates[:] = _ZERO
        dskip[:] = _ZERO
        dbias[:] = _ZERO
        for tile in range((count + TILE - 1) // TILE - 1, -1, -1):
            start = first + direction * tile * TILE
            steps = min(TILE, count - tile * TILE)
            x_start = b * x_strides[0] + start * x_strides[1] + channel
            dt_start = b * dt_strides[0] + start * dt_strides[1] + channel
            z_start = b * z_strides[0] + start * z_strides[1] + channel
            dy_start = b * dy_strides[0] + start * dy_strides[1] + channel
            out_start = (b * length + start) * d_inner + channel
            B_start = b * B_strides[0] + start * B_strides[1]
            C_start = b * C_strides[0] + start * C_strides[1]
            # Gradients of constant maps: a row of its own for each sequence.
            dB_start = (b * length + start) * B_strides[1] if B_step != 0 else sequence * d_inner * values
            dC_start = (b * length + start) * C_strides[1] if C_step != 0 else sequence * d_inner * values
            B_rows = steps if B_step != 0 else 1
            C_rows = steps if C_step != 0 else 1
            tile_start = (checkpoint + tile) * values * d_inner + channel
            gather(h_start, values, checkpoints, tile_start, d_inner, width)
            for t in range(steps):
                for c in range(0, width, LANES):
                    x_t = load_some(x, x_start + t * x_step + c, width - c)
                    delta = load_some(dt, dt_start + t * dt_step + c, width - c)
                    delta = delta + load_some(dt_bias, channel + c, width - c)
                    slope = splat(_ONE)
                    if softplus:
                        delta, slope = softplus_and_sigmoid(delta)
                    doutput = load_some(dy, dy_start + t * dy_step + c, width - c)
                    if gated:
                        gate = load_some(z, z_start + t * z_step + c, width - c)
                        doutput = doutput * gate * sigmoid(gate)
                    store(deltas, t * CHANNELS + c, delta)
                    store(slopes, t * CHANNELS + c, slope)
                    store(impulses, t * CHANNELS + c, delta * x_t)
                    store(doutputs, t * CHANNELS + c, doutput)
            ahead = (
                (x, x_start - TILE * x_step, x_step),
                (dt, dt_start - TILE * dt_step, dt_step),
                (dy, dy_start - TILE * dy_step, dy_step),
                (z, z_start - TILE * z_step, z_step),
            )
            for c in range(0, width, LANES):
                lanes = min(LANES, width - c)
                if groups_change(channel, c, lanes, B_share):
                    fill_lanes(B_lanes, B, B_start, B_step, B_rows, values, channel + c, lanes, B_share)
                    dB_lanes[: B_rows * values * LANES] = _ZERO
                if groups_change(channel, c, lanes, C_share):
                    fill_lanes(C_lanes, C, C_start, C_step, C_rows, values, channel + c, lanes, C_share)
                    dC_lanes[: C_rows * values * LANES] = _ZERO
                for value in range(values):
                    store(h, value * LANES, load(h_start, value * CHANNELS + c))
                    store(drates_tile, value * LANES, splat(_ZERO))
                given = (d_state, deltas, impulses, doutputs, rates, decays, h)
                maps = (B_lanes, B_lane_step, C_lanes, C_lane_step)
                results = (dB_lanes, drates_tile, dimpulses, ddeltas)
                if is_complex:
                    _replay_complex(steps, c, ahead, *given, *maps, dC_lanes, outputs)
                    _retreat_complex(steps, c, *given, g, *maps, *results)
                else:
                    _replay_real(steps, c, ahead, *given, *maps, dC_lanes, outputs)
                    _retreat_real(steps, c, *given, g, *maps, *results)
                for value in range(values):
                    at = value * CHANNELS + c
                    store(drates, at, load(drates, at) + load(drates_tile, value * LANES))
                after = min(LANES, width - c - LANES)
                if after <= 0 or groups_change(channel, c + LANES, after, B_share):
                    add_lanes(
                        dB_lanes, dB, dB_start, B_step, B_rows, values, channel + c, lanes, B_share, dB_slot
                    )
                if after <= 0 or groups_change(channel, c + LANES, after, C_share):
                    add_lanes(
                        dC_lanes, dC, dC_start, C_step, C_rows, values, channel + c, lanes, C_share, dC_slot
                    )
            dskip_tile[:] = _ZERO
            dbias_tile[:] = _ZERO
            for t in range(steps):
                for c in range(0, width, LANES):
                    at = t * CHANNELS + c
                    x_t = load_some(x, x_start + t * x_step + c, width - c)
                    skip = load_some(D, channel + c, width - c)
                    doutput = load(doutputs, at)
                    dimpulse = load(dimpulses, at)
                    dx_t = fma(dimpulse, load(deltas, at), skip * doutput)
                    ddt_t = fma(dimpulse, x_t, load(ddeltas, at)) * load(slopes, at)
                    store(dskip_tile, c, fma(doutput, x_t, load(dskip_tile, c)))
                    store(dbias_tile, c, load(dbias_tile, c) + ddt_t)
                    store_some(dx, out_start + t * out_step + c, dx_t, width - c)
                    if dt_varies:
                        store_some(ddt, out_start + t * out_step + c, ddt_t, width - c)
                    if gated:
                        gate = load_some(z, z_start + t * z_step + c, width - c)
                        dy_t = load_some(dy, dy_start + t * dy_step + c, width - c)
                        s = sigmoid(gate)
                        slope = s * fma(gate, _ONE - s, _ONE)
                        output = fma(skip, x_t, load(outputs, at))
                        store_some(dz, out_start + t * out_step + c, dy_t * output * slope, width - c)
            for c in range(0, width, LANES):
                store(dskip, c, load(dskip, c) + load(dskip_tile, c))
                store(dbias, c, load(dbias, c) + load(dbias_tile, c))
        scatter(g, values, dstate, state_start, d_inner, width)
        scatter(drates, values, dA, state_start, d_inner, width)
        scatter(dskip, 1, dD, sequence * d_inner + channel, d_inner, width)
        scatter(dbias, 1, ddt_bias, sequence * d_inner + channel, d_inner, width)
