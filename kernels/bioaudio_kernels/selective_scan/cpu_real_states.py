"""The recurrence of real states over one tile and eight channels, from channel c of the block on.

Buffers lie as in `cpu_forward`; B and C as in `cpu_maps`, with B_step and C_step floats from step to step.
"""

from __future__ import annotations

import numpy as np

from bioaudio_kernels.blocks import CHANNELS, prefetch_step
from bioaudio_kernels.compiled import inlined
from bioaudio_kernels.lane_math import LN_2, exp2
from bioaudio_kernels.simd import LANES, fma, load, splat, store

_ZERO = np.float32(0)


@inlined
def advance(steps, c, ahead, d_state, deltas, impulses, rates, h, B, B_step, C, C_step, outputs):
    """Bring h to the end of the tile and write outputs = C . h; fetches what lies `ahead`."""
    for t in range(steps):
        delta = load(deltas, t * CHANNELS + c)
        impulse = load(impulses, t * CHANNELS + c)
        prefetch_step(ahead, t, c)
        output = splat(_ZERO)
        for n in range(d_state):
            decay = exp2(delta * load(rates, n * CHANNELS + c))
            h_n = fma(decay, load(h, n * CHANNELS + c), impulse * load(B, t * B_step + n * LANES))
            store(h, n * CHANNELS + c, h_n)
            output = fma(h_n, load(C, t * C_step + n * LANES), output)
        store(outputs, t * CHANNELS + c, output)


@inlined
def replay(
    steps, c, ahead, d_state, deltas, impulses, doutputs, rates, decays, h, B, B_step, C, C_step,
    dC, outputs,
):  # fmt: skip
    """`advance` from h[0], keeping decays [step][n] and states [step + 1][n]; adds to dC."""
    for t in range(steps):
        delta = load(deltas, t * CHANNELS + c)
        impulse = load(impulses, t * CHANNELS + c)
        doutput = load(doutputs, t * CHANNELS + c)
        prefetch_step(ahead, t, c)
        output = splat(_ZERO)
        for n in range(d_state):
            at = (t * d_state + n) * LANES
            decay = exp2(delta * load(rates, n * CHANNELS + c))
            h_n = fma(decay, load(h, at), impulse * load(B, t * B_step + n * LANES))
            store(decays, at, decay)
            store(h, at + d_state * LANES, h_n)
            store(dC, t * C_step + n * LANES, fma(h_n, doutput, load(dC, t * C_step + n * LANES)))
            output = fma(h_n, load(C, t * C_step + n * LANES), output)
        store(outputs, t * CHANNELS + c, output)


@inlined
def retreat(
    steps, c, d_state, deltas, impulses, doutputs, rates, decays, h, g, B, B_step, C, C_step,
    dB, drates, dimpulses, ddeltas,
):  # fmt: skip
    """Bring g, the gradient of h, to the start of the tile; adds to dB and drates."""
    for t in range(steps - 1, -1, -1):
        delta = load(deltas, t * CHANNELS + c)
        impulse = load(impulses, t * CHANNELS + c)
        doutput = load(doutputs, t * CHANNELS + c)
        dimpulse = splat(_ZERO)
        ddelta = splat(_ZERO)
        for n in range(d_state):
            at = (t * d_state + n) * LANES
            g_n = fma(doutput, load(C, t * C_step + n * LANES), load(g, n * CHANNELS + c))
            carried = g_n * load(decays, at)
            q = carried * load(h, at)
            store(g, n * CHANNELS + c, carried)
            store(dB, t * B_step + n * LANES, fma(g_n, impulse, load(dB, t * B_step + n * LANES)))
            store(drates, n * LANES, fma(q, delta, load(drates, n * LANES)))
            dimpulse = fma(g_n, load(B, t * B_step + n * LANES), dimpulse)
            ddelta = fma(q, load(rates, n * CHANNELS + c), ddelta)
        store(dimpulses, t * CHANNELS + c, dimpulse)
        store(ddeltas, t * CHANNELS + c, ddelta * LN_2)
