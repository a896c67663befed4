"""exp2, sigmoid, softplus, cosine and sine of lanes: accurate where slow states and small steps need it."""

from __future__ import annotations

import numpy as np

from bioaudio_kernels.compiled import inlined
from bioaudio_kernels.simd import (
    LANES,
    add_to_exponent,
    at_least,
    fma,
    load,
    masked_load,
    masked_store,
    negated_if_odd,
    store,
    where_negative,
)

LOG2_E = np.float32(1.4426950408889634)
LOG2_E_REST = np.float32(1.4426950408889634 - float(LOG2_E))
LN_2 = np.float32(0.6931471805599453)
_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)
_ROUND = np.float32(1.5 * 2**23)  # adding it rounds to an integer, which then stands in the low bits
_LOWEST = np.float32(-125)  # below, the result would be subnormal

# Minimax fits of relative error: (2^f - 1) / f on [-1/2, 1/2], and (atanh(s) / s - 1) / s^2 in s^2 on [0,
# 1/9].
_E1, _E2, _E3, _E4, _E5 = map(
    np.float32,
    [
        0.6931469775976786,
        0.24022242083111767,
        0.05550733744470965,
        0.009671512785780479,
        0.001326472725273288,
    ],
)
_L1, _L2, _L3, _L4 = map(
    np.float32, [0.33333208142417736, 0.20010763646640767, 0.14000902146339048, 0.14005996032639811]
)
# Minimax fits on [0, 1/4]: of relative error, sin(pi r) / r in r^2; of absolute error, (cos(pi r) - 1) / r^2.
_S0, _S1, _S2, _S3, _S4 = map(
    np.float32,
    [3.1415926370684186, -5.167709693658479, 2.550069850798978, -0.5982427790596917, 0.07756153170471392],
)
_C1, _C2, _C3, _C4, _C5 = map(
    np.float32,
    [-4.934802157092045, 4.058709605597853, -1.3352159700849806, 0.23495273016676832, -0.024418177881333797],
)


@inlined
def _exp2_of_sum(f, shifted):
    """2^(f + k) for f in [-1/2, 1/2] and shifted = k + _ROUND."""
    p = fma(fma(fma(fma(fma(_E5, f, _E4), f, _E3), f, _E2), f, _E1), f, _ONE)
    return add_to_exponent(p, shifted)


@inlined
def exp2(x):
    """2^x for x < 127, never below 2^-125. Relative error 1.5e-7; at 0 it is 1, and close to 0 close to 1."""
    x = at_least(x, _LOWEST)
    shifted = x + _ROUND
    return _exp2_of_sum(x - (shifted - _ROUND), shifted)


@inlined
def _exp_of_minus_magnitude(x):
    """e^-|x|, never below 2^-125."""
    x = at_least(where_negative(x, x, _ZERO - x), _LOWEST * LN_2)
    shifted = fma(x, LOG2_E, _ROUND)
    f = fma(x, LOG2_E_REST, fma(x, LOG2_E, _ROUND - shifted))
    return _exp2_of_sum(f, shifted)


@inlined
def sigmoid(x):
    """1 / (1 + e^-x)."""
    e = _exp_of_minus_magnitude(x)
    return where_negative(x, e, _ONE) / (e + _ONE)


@inlined
def softplus_and_sigmoid(x):
    """log(1 + e^x) and its derivative 1 / (1 + e^-x).

    The logarithm is max(x, 0) + log1p(e^-|x|), with log1p(e) = 2 atanh(e / (2 + e)): small results keep their
    relative accuracy, and above 20 the result is x itself in float32, as torch defines it.
    """
    e = _exp_of_minus_magnitude(x)
    s = e / (e + _TWO)
    w = s * s
    series = fma(fma(fma(_L4, w, _L3), w, _L2), w, _L1)
    log1p = _TWO * fma(s * w, series, s)
    return where_negative(x, _ZERO, x) + log1p, where_negative(x, e, _ONE) / (e + _ONE)


@inlined
def cos_and_sin(x, half_turns, half_turns_rest):
    """Cosine and sine of pi * x * (half_turns + half_turns_rest), for less than 2^21 half turns.

    The product with the two parts keeps its fraction to 1e-7 of a half turn however many whole ones there
    are.
    """
    shifted = fma(x, half_turns, _ROUND)
    r = fma(x, half_turns_rest, fma(x, half_turns, -(shifted - _ROUND)))
    w = r * r
    cosine = fma(fma(fma(fma(fma(_C5, w, _C4), w, _C3), w, _C2), w, _C1), w, _ONE)
    sine = r * fma(fma(fma(fma(_S4, w, _S3), w, _S2), w, _S1), w, _S0)
    return negated_if_odd(cosine, shifted), negated_if_odd(sine, shifted)


@inlined
def load_some(array, index, count):
    """The lanes array[index : index + 8], of which those from `count` on are zero and not read."""
    if count >= LANES:
        return load(array, index)
    return masked_load(array, index, count)


@inlined
def store_some(array, index, lanes, count):
    """Write the first `count` lanes."""
    # A masked store is slow on some machines, so full rows avoid it.
    if count >= LANES:
        store(array, index, lanes)
    else:
        masked_store(array, index, lanes, count)
