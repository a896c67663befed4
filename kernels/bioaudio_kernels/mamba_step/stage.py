"""The compiled step: norm, projections, convolution, selective SSM and residual sum of block after block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bioaudio_kernels.compiled import inlined, kernel
from bioaudio_kernels.lane_math import exp2, sigmoid, softplus_and_sigmoid
from bioaudio_kernels.mamba_step.packing import StageSizes
from bioaudio_kernels.simd import LANES, fma, load, splat, splat_at, store, total

Array = NDArray[np.float32]
_ZERO = np.float32(0)


def step_stage(
    sizes: StageSizes,
    weights: Array,
    eps: float,
    x: Array,
    conv: Array,
    ssm: Array,
    skips: Array | None = None,
) -> tuple[Array, Array, Array, Array]:
    """One time step through the blocks of a stage: x + block(norm(x)), block after block.

    Args:
        sizes, weights: of `pack_stage`.
        eps: of the RMS norms.
        x: (batch, d_model).
        conv: (layers, batch, d_conv - 1, d_inner) the last inputs of the convolutions, oldest first.
        ssm: (layers, batch, d_state, d_inner) the states.
        skips: (layers, batch, d_model) added to the results of the blocks, the last of them first; None adds
            nothing.

    Returns:
        the result, the new conv and ssm, and what entered each block, in the shape of `skips`.
    """
    y, new_conv, new_ssm = x.copy(), np.empty_like(conv), np.empty_like(ssm)
    entered = np.empty((sizes.layers, *x.shape), np.float32)
    work = np.empty(sizes.d_model + 6 * sizes.d_inner + sizes.selection, np.float32)
    _step(
        weights,
        y.reshape(-1),
        conv.reshape(-1),
        ssm.reshape(-1),
        new_conv.reshape(-1),
        new_ssm.reshape(-1),
        entered.reshape(-1),
        entered.reshape(-1) if skips is None else skips.reshape(-1),
        work,
        len(x),
        *sizes,
        sizes.selection,
        np.float32(eps),
        skips is not None,
    )
    return y, new_conv, new_ssm, entered


def step_head(x: Array, norm: Array, norm_bias: Array, head: Array, head_bias: Array, eps: float) -> Array:
    """Layer norm and linear head: (batch, d_model) to logits (batch, vocab); `head` is of `panels`."""
    logits, work = np.empty((len(x), len(head_bias)), np.float32), np.empty(len(norm), np.float32)
    _head(x.reshape(-1), norm, norm_bias, head, head_bias, work, logits.reshape(-1), np.float32(eps))
    return logits


@inlined
def _product(weights, at, x, x_at, inputs, y, y_at, outputs):
    """y = weights @ x, panel by panel; returns where the next weights begin."""
    if outputs % 32 == 0:
        for o in range(0, outputs, 32):
            a, b, c, d = splat(_ZERO), splat(_ZERO), splat(_ZERO), splat(_ZERO)
            for j in range(inputs):
                u = splat_at(x, x_at + j)
                a = fma(load(weights, at), u, a)
                b = fma(load(weights, at + 8), u, b)
                c = fma(load(weights, at + 16), u, c)
                d = fma(load(weights, at + 24), u, d)
                at += 32
            store(y, y_at + o, a)
            store(y, y_at + o + 8, b)
            store(y, y_at + o + 16, c)
            store(y, y_at + o + 24, d)
    else:
        for o in range(0, outputs, 8):
            a = splat(_ZERO)
            for j in range(inputs):
                a = fma(load(weights, at), splat_at(x, x_at + j), a)
                at += 8
            store(y, y_at + o, a)
    return at


@kernel
def _step(
    weights, x, conv, ssm, new_conv, new_ssm, entered, skips, work,
    rows, layers, d, inner, n, rank, width, selection, eps, adds,
):  # fmt: skip
    """See `step_stage`; all arrays flat."""
    u_at, xz, dt = 0, d, d + 2 * inner
    heard, y, sel = dt + inner, dt + 2 * inner, dt + 3 * inner
    begin = 0
    for layer in range(layers):
        end = begin
        for row in range(rows):
            at, place, slot = begin, row * d, layer * rows + row
            square = splat(_ZERO)
            for i in range(0, d, LANES):
                v = load(x, place + i)
                store(entered, slot * d + i, v)
                square = fma(v, v, square)
            scale = np.float32(1) / np.sqrt(total(square) / np.float32(d) + eps)
            for i in range(0, d, LANES):
                store(work, u_at + i, load(x, place + i) * scale * load(weights, at + i))
            at = _product(weights, at + d, work, u_at, d, work, xz, 2 * inner)
            bias, past = at + width * inner, slot * (width - 1) * inner
            for i in range(0, inner, LANES):
                now = load(work, xz + i)
                s = fma(now, load(weights, at + (width - 1) * inner + i), load(weights, bias + i))
                for k in range(width - 1):
                    before = load(conv, past + k * inner + i)
                    s = fma(before, load(weights, at + k * inner + i), s)
                    if k > 0:
                        store(new_conv, past + (k - 1) * inner + i, before)
                if width > 1:
                    store(new_conv, past + (width - 2) * inner + i, now)
                store(work, heard + i, s * sigmoid(s))
            at = _product(weights, bias + inner, work, heard, inner, work, sel, selection)
            at = _product(weights, at, work, sel, rank, work, dt, inner)
            rates, state = at + inner, slot * n * inner
            skip = rates + n * inner
            for i in range(0, inner, LANES):
                delta, _ = softplus_and_sigmoid(load(work, dt + i) + load(weights, at + i))
                v = load(work, heard + i)
                impulse, out = delta * v, v * load(weights, skip + i)
                for s in range(n):
                    h = load(ssm, state + s * inner + i) * exp2(delta * load(weights, rates + s * inner + i))
                    h = fma(impulse, splat_at(work, sel + rank + s), h)
                    store(new_ssm, state + s * inner + i, h)
                    out = fma(h, splat_at(work, sel + rank + n + s), out)
                z = load(work, xz + inner + i)
                store(work, y + i, out * (z * sigmoid(z)))
            end = _product(weights, skip + inner, work, y, inner, work, u_at, d)
            other = ((layers - 1 - layer) * rows + row) * d
            for i in range(0, d, LANES):
                v = load(x, place + i) + load(work, u_at + i)
                if adds:
                    v = v + load(skips, other + i)
                store(x, place + i, v)
        begin = end


@kernel
def _head(x, norm, norm_bias, head, head_bias, work, logits, eps):
    """See `step_head`; x and logits flat."""
    d, vocab = len(norm), len(head_bias)
    for row in range(len(x) // d):
        place = row * d
        sums = splat(_ZERO)
        for i in range(0, d, LANES):
            sums = sums + load(x, place + i)
        mean = total(sums) / np.float32(d)
        square = splat(_ZERO)
        for i in range(0, d, LANES):
            v = load(x, place + i) - mean
            square = fma(v, v, square)
        scale = np.float32(1) / np.sqrt(total(square) / np.float32(d) + eps)
        for i in range(0, d, LANES):
            v = (load(x, place + i) - mean) * scale
            store(work, i, fma(v, load(norm, i), load(norm_bias, i)))
        _product(head, 0, work, 0, d, logits, row * vocab, vocab)
        for i in range(vocab):
            logits[row * vocab + i] += head_bias[i]
