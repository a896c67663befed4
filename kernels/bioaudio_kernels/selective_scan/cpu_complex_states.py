"""The recurrence of complex states over one tile and eight channels; `cpu_real_states` with the same roles.

Values of states, B and C come in pairs, real part first; those of A in threes: log2(e) times the real part,
then the imaginary part in half turns (divided by pi) as a float32 and the rest. Complex gradients follow
torch: that of a product is the gradient times the other factor's conjugate.
"""

from __future__ import annotations

import numpy as np

from bioaudio_kernels.blocks import CHANNELS, prefetch_step
from bioaudio_kernels.compiled import inlined
from bioaudio_kernels.lane_math import LN_2, cos_and_sin, exp2
from bioaudio_kernels.simd import LANES, fma, load, splat, store

_ZERO, _TWO, _PI = np.float32(0), np.float32(2), np.float32(np.pi)


@inlined
def _decay(delta, rates, n, c):
    """exp(delta * A), as a pair."""
    at = 3 * n * CHANNELS + c
    size = exp2(delta * load(rates, at))
    cosine, sine = cos_and_sin(delta, load(rates, at + CHANNELS), load(rates, at + 2 * CHANNELS))
    return size * cosine, size * sine


@inlined
def advance(steps, c, ahead, d_state, deltas, impulses, rates, h, B, B_step, C, C_step, outputs):
    """Bring h to the end of the tile and write outputs = 2 Re(C . h); fetches what lies `ahead`."""
    for t in range(steps):
        delta = load(deltas, t * CHANNELS + c)
        impulse = load(impulses, t * CHANNELS + c)
        prefetch_step(ahead, t, c)
        output = splat(_ZERO)
        for n in range(d_state):
            at = 2 * n * CHANNELS + c
            B_at, C_at = t * B_step + 2 * n * LANES, t * C_step + 2 * n * LANES
            a_re, a_im = _decay(delta, rates, n, c)
            h_re, h_im = load(h, at), load(h, at + CHANNELS)
            re = fma(a_re, h_re, fma(-a_im, h_im, impulse * load(B, B_at)))
            im = fma(a_re, h_im, fma(a_im, h_re, impulse * load(B, B_at + LANES)))
            store(h, at, re)
            store(h, at + CHANNELS, im)
            output = fma(re, load(C, C_at), fma(-im, load(C, C_at + LANES), output))
        store(outputs, t * CHANNELS + c, output * _TWO)


@inlined
def replay(
    steps, c, ahead, d_state, deltas, impulses, doutputs, rates, decays, h, B, B_step, C, C_step,
    dC, outputs,
):  # fmt: skip
    """`advance` from h[0], keeping decays [step][n] and states [step + 1][n]; adds to dC."""
    for t in range(steps):
        delta = load(deltas, t * CHANNELS + c)
        impulse = load(impulses, t * CHANNELS + c)
        doutput = load(doutputs, t * CHANNELS + c) * _TWO
        prefetch_step(ahead, t, c)
        output = splat(_ZERO)
        for n in range(d_state):
            at = 2 * (t * d_state + n) * LANES
            B_at, C_at = t * B_step + 2 * n * LANES, t * C_step + 2 * n * LANES
            a_re, a_im = _decay(delta, rates, n, c)
            h_re, h_im = load(h, at), load(h, at + LANES)
            re = fma(a_re, h_re, fma(-a_im, h_im, impulse * load(B, B_at)))
            im = fma(a_re, h_im, fma(a_im, h_re, impulse * load(B, B_at + LANES)))
            store(decays, at, a_re)
            store(decays, at + LANES, a_im)
            store(h, at + 2 * d_state * LANES, re)
            store(h, at + (2 * d_state + 1) * LANES, im)
            store(dC, C_at, fma(re, doutput, load(dC, C_at)))
            store(dC, C_at + LANES, fma(-im, doutput, load(dC, C_at + LANES)))
            output = fma(re, load(C, C_at), fma(-im, load(C, C_at + LANES), output))
        store(outputs, t * CHANNELS + c, output * _TWO)


@inlined
def retreat(
    steps, c, d_state, deltas, impulses, doutputs, rates, decays, h, g, B, B_step, C, C_step,
    dB, drates, dimpulses, ddeltas,
):  # fmt: skip
    """Bring g, the gradient of h, to the start of the tile; adds to dB and drates."""
    for t in range(steps - 1, -1, -1):
        delta = load(deltas, t * CHANNELS + c)
        impulse = load(impulses, t * CHANNELS + c)
        doutput = load(doutputs, t * CHANNELS + c) * _TWO
        dimpulse = splat(_ZERO)
        by_rate = splat(_ZERO)
        by_turn = splat(_ZERO)
        for n in range(d_state):
            at = 2 * (t * d_state + n) * LANES
            g_at, rate_at, drate_at = 2 * n * CHANNELS + c, 3 * n * CHANNELS + c, 2 * n * LANES
            B_at, C_at = t * B_step + 2 * n * LANES, t * C_step + 2 * n * LANES
            a_re, a_im = load(decays, at), load(decays, at + LANES)
            h_re, h_im = load(h, at), load(h, at + LANES)
            g_re = fma(doutput, load(C, C_at), load(g, g_at))
            g_im = fma(-doutput, load(C, C_at + LANES), load(g, g_at + CHANNELS))
            carried_re = fma(g_re, a_re, g_im * a_im)
            carried_im = fma(g_im, a_re, -(g_re * a_im))
            q_re = fma(carried_re, h_re, carried_im * h_im)
            q_im = fma(carried_im, h_re, -(carried_re * h_im))
            store(g, g_at, carried_re)
            store(g, g_at + CHANNELS, carried_im)
            store(dB, B_at, fma(g_re, impulse, load(dB, B_at)))
            store(dB, B_at + LANES, fma(g_im, impulse, load(dB, B_at + LANES)))
            store(drates, drate_at, fma(q_re, delta, load(drates, drate_at)))
            store(drates, drate_at + LANES, fma(q_im, delta, load(drates, drate_at + LANES)))
            dimpulse = fma(g_re, load(B, B_at), fma(g_im, load(B, B_at + LANES), dimpulse))
            by_rate = fma(q_re, load(rates, rate_at), by_rate)
            by_turn = fma(q_im, load(rates, rate_at + CHANNELS), by_turn)
        store(dimpulses, t * CHANNELS + c, dimpulse)
        store(ddeltas, t * CHANNELS + c, fma(by_rate, LN_2, by_turn * _PI))
