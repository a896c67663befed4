"""The gradient of the selective scan, compiled for the CPU by numba.

Tiles are taken from last to first. A tile is run again from its checkpoint, this time keeping its decays and
states (of eight channels at a time, so in cache); then the recurrence of the gradient runs over it backwards.
With g_t the gradient of h_t, w_t that of the ungated output, and q_t = g_t decay_t h_{t-1} that of log
decay_t:

    g_t = C_t w_t + decay_{t+1} g_{t+1}        d impulse_t = sum_n B_t g_t        (impulse = delta x)
    dB_t = sum_d g_t impulse_t                 d delta_t   = x_t d impulse_t + sum_n A q_t
    dC_t = sum_d h_t w_t                       dA          = sum_t delta_t q_t

B and C are shared by all channels: each block of channels writes its own sum, and the caller adds the blocks,
always in the same order. Layouts are those of `cpu_forward`.
"""

from __future__ import annotations

import numpy as np

from bioaudio_kernels.blocks import CHANNELS, TILE, block_of, gather, scatter
from bioaudio_kernels.compiled import kernel
from bioaudio_kernels.lane_math import LN_2, exp2, load_some, sigmoid, softplus_and_sigmoid, store_some
from bioaudio_kernels.simd import LANES, fma, load, prefetch, splat, splat_at, store, total

_ZERO, _ONE = np.float32(0), np.float32(1)


@kernel
def backward(
    first_task, last_task, sizes, inputs, strides, options, checkpoints, dy, dy_strides, dstate, gradients
):
    """Write `gradients`; turn `dstate` from the gradient of the final state into that of the initial one.

    Args:
        sizes, inputs, strides: as in `forward`.
        options: (dt_softplus, gated).
        checkpoints: [batch][tile][d_state][d_inner], from `forward`.
        dy: gradient of y with its (batch, length) strides.
        dstate: [batch][d_state][d_inner], changed in place.
        gradients: dx, ddt, dz [batch][length][d_inner]; dA [batch][d_state][d_inner]; dB, dC
            [block][batch][length][d_state]; dD, d dt_bias [batch][d_inner]. dz is not written unless gated.
    """
    batch, length, d_inner, d_state = sizes
    x, dt, A, B, C, D, z, dt_bias = inputs
    x_strides, dt_strides, z_strides = strides
    softplus, gated = options
    dx, ddt, dz, dA, dB, dC, dD, ddt_bias = gradients
    tiles = (length + TILE - 1) // TILE
    deltas = np.empty(TILE * CHANNELS, np.float32)
    slopes = np.empty(TILE * CHANNELS, np.float32)
    impulses = np.empty(TILE * CHANNELS, np.float32)
    outputs = np.empty(TILE * CHANNELS, np.float32)
    doutputs = np.empty(TILE * CHANNELS, np.float32)
    dimpulses = np.empty(TILE * CHANNELS, np.float32)
    ddeltas = np.empty(TILE * CHANNELS, np.float32)
    rates = np.empty(d_state * CHANNELS, np.float32)
    h_start = np.empty(d_state * CHANNELS, np.float32)
    g = np.empty(d_state * CHANNELS, np.float32)
    drates = np.empty(d_state * CHANNELS, np.float32)
    drates_tile = np.empty(d_state * LANES, np.float32)
    dskip = np.empty(CHANNELS, np.float32)
    dbias = np.empty(CHANNELS, np.float32)
    dskip_tile = np.empty(CHANNELS, np.float32)
    dbias_tile = np.empty(CHANNELS, np.float32)
    decays = np.empty(TILE * d_state * LANES, np.float32)
    h = np.empty((TILE + 1) * d_state * LANES, np.float32)
    dB_lanes = np.empty(TILE * d_state * LANES, np.float32)
    dC_lanes = np.empty(TILE * d_state * LANES, np.float32)
    for task in range(first_task, last_task):
        b, channel, width = block_of(task, d_inner)
        state_start = b * d_state * d_inner + channel
        gather(rates, d_state, A, channel, d_inner, width)
        gather(g, d_state, dstate, state_start, d_inner, width)
        drates[:] = _ZERO
        dskip[:] = _ZERO
        dbias[:] = _ZERO
        for tile in range(tiles - 1, -1, -1):
            start = tile * TILE
            steps = min(TILE, length - start)
            x_start = b * x_strides[0] + start * x_strides[1] + channel
            dt_start = b * dt_strides[0] + start * dt_strides[1] + channel
            z_start = b * z_strides[0] + start * z_strides[1] + channel
            dy_start = b * dy_strides[0] + start * dy_strides[1] + channel
            out_start = (b * length + start) * d_inner + channel
            row_start = (b * length + start) * d_state
            gather(
                h_start,
                d_state,
                checkpoints,
                (b * tiles + tile) * d_state * d_inner + channel,
                d_inner,
                width,
            )
            for t in range(steps):
                for c in range(0, width, LANES):
                    x_t = load_some(x, x_start + t * x_strides[1] + c, width - c)
                    delta = load_some(dt, dt_start + t * dt_strides[1] + c, width - c)
                    delta = delta + load_some(dt_bias, channel + c, width - c)
                    slope = splat(_ONE)
                    if softplus:
                        delta, slope = softplus_and_sigmoid(delta)
                    doutput = load_some(dy, dy_start + t * dy_strides[1] + c, width - c)
                    if gated:
                        gate = load_some(z, z_start + t * z_strides[1] + c, width - c)
                        doutput = doutput * gate * sigmoid(gate)
                    store(deltas, t * CHANNELS + c, delta)
                    store(slopes, t * CHANNELS + c, slope)
                    store(impulses, t * CHANNELS + c, delta * x_t)
                    store(doutputs, t * CHANNELS + c, doutput)
            dB_lanes[:] = _ZERO
            dC_lanes[:] = _ZERO
            for c in range(0, width, LANES):
                for n in range(d_state):
                    store(h, n * LANES, load(h_start, n * CHANNELS + c))
                    store(drates_tile, n * LANES, splat(_ZERO))
                for t in range(steps):
                    delta = load(deltas, t * CHANNELS + c)
                    impulse = load(impulses, t * CHANNELS + c)
                    doutput = load(doutputs, t * CHANNELS + c)
                    prefetch(x, x_start + (t - TILE) * x_strides[1] + c)
                    prefetch(dt, dt_start + (t - TILE) * dt_strides[1] + c)
                    prefetch(dy, dy_start + (t - TILE) * dy_strides[1] + c)
                    if gated:
                        prefetch(z, z_start + (t - TILE) * z_strides[1] + c)
                    output = splat(_ZERO)
                    for n in range(d_state):
                        at = (t * d_state + n) * LANES
                        decay = exp2(delta * load(rates, n * CHANNELS + c))
                        h_n = fma(decay, load(h, at), impulse * splat_at(B, row_start + t * d_state + n))
                        store(decays, at, decay)
                        store(h, at + d_state * LANES, h_n)
                        store(dC_lanes, at, fma(h_n, doutput, load(dC_lanes, at)))
                        output = fma(h_n, splat_at(C, row_start + t * d_state + n), output)
                    store(outputs, t * CHANNELS + c, output)
                for t in range(steps - 1, -1, -1):
                    delta = load(deltas, t * CHANNELS + c)
                    impulse = load(impulses, t * CHANNELS + c)
                    doutput = load(doutputs, t * CHANNELS + c)
                    dimpulse = splat(_ZERO)
                    ddelta = splat(_ZERO)
                    for n in range(d_state):
                        at = (t * d_state + n) * LANES
                        g_n = fma(
                            doutput, splat_at(C, row_start + t * d_state + n), load(g, n * CHANNELS + c)
                        )
                        carried = g_n * load(decays, at)
                        q = carried * load(h, at)
                        store(g, n * CHANNELS + c, carried)
                        store(dB_lanes, at, fma(g_n, impulse, load(dB_lanes, at)))
                        store(drates_tile, n * LANES, fma(q, delta, load(drates_tile, n * LANES)))
                        dimpulse = fma(g_n, splat_at(B, row_start + t * d_state + n), dimpulse)
                        ddelta = fma(q, load(rates, n * CHANNELS + c), ddelta)
                    store(dimpulses, t * CHANNELS + c, dimpulse)
                    store(ddeltas, t * CHANNELS + c, ddelta * LN_2)
                for n in range(d_state):
                    at = n * CHANNELS + c
                    store(drates, at, load(drates, at) + load(drates_tile, n * LANES))
            block = channel // CHANNELS
            for row in range(steps * d_state):
                at = block * batch * length * d_state + row_start + row
                dB[at] = total(load(dB_lanes, row * LANES))
                dC[at] = total(load(dC_lanes, row * LANES))
            dskip_tile[:] = _ZERO
            dbias_tile[:] = _ZERO
            for t in range(steps):
                for c in range(0, width, LANES):
                    at = t * CHANNELS + c
                    x_t = load_some(x, x_start + t * x_strides[1] + c, width - c)
                    skip = load_some(D, channel + c, width - c)
                    doutput = load(doutputs, at)
                    dimpulse = load(dimpulses, at)
                    dx_t = fma(dimpulse, load(deltas, at), skip * doutput)
                    ddt_t = fma(dimpulse, x_t, load(ddeltas, at)) * load(slopes, at)
                    store(dskip_tile, c, fma(doutput, x_t, load(dskip_tile, c)))
                    store(dbias_tile, c, load(dbias_tile, c) + ddt_t)
                    store_some(dx, out_start + t * d_inner + c, dx_t, width - c)
                    store_some(ddt, out_start + t * d_inner + c, ddt_t, width - c)
                    if gated:
                        gate = load_some(z, z_start + t * z_strides[1] + c, width - c)
                        dy_t = load_some(dy, dy_start + t * dy_strides[1] + c, width - c)
                        s = sigmoid(gate)
                        slope = s * fma(gate, _ONE - s, _ONE)
                        output = fma(skip, x_t, load(outputs, at))
                        store_some(dz, out_start + t * d_inner + c, dy_t * output * slope, width - c)
            for c in range(0, width, LANES):
                store(dskip, c, load(dskip, c) + load(dskip_tile, c))
                store(dbias, c, load(dbias, c) + load(dbias_tile, c))
        scatter(g, d_state, dstate, state_start, d_inner, width)
        scatter(drates, d_state, dA, state_start, d_inner, width)
        scatter(dskip, 1, dD, b * d_inner + channel, d_inner, width)
        scatter(dbias, 1, ddt_bias, b * d_inner + channel, d_inner, width)
