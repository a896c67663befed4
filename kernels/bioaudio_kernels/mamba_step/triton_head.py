# type: ignore  (Triton's language is not Python: pyright cannot type it)
"""What stands between stages and after the last one on Triton: projections, head, and the draw of a code."""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.mamba_step.triton_block import (
    load_tile,
    product,
    sum_over_inputs,
    wait_for_launch_before,
)
from bioaudio_kernels.triton_jit import jit
from bioaudio_kernels.triton_vectors import LOG2_E

LN_2 = tl.constexpr(0.6931471805599453)


@jit(do_not_specialize=["rows"])
def linear_kernel(
    p_x, p_weight, p_bias, p_y, rows, ROWS: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
    BLOCK: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """y = weight x + bias. Grid: (OUTPUTS / BLOCK, blocks of ROWS rows)."""
    part = tl.program_id(0)
    first = tl.program_id(1).to(tl.int64) * ROWS
    output = part * BLOCK + tl.arange(0, BLOCK)
    weight = load_tile(p_weight + part * BLOCK * K, INPUTS, BLOCK, K, OUTPUTS)
    for row in range(first, tl.minimum(first + ROWS, rows)):
        x = tl.load(p_x + row * INPUTS + tl.arange(0, INPUTS))
        tl.store(p_y + row * OUTPUTS + output, product(weight, x) + tl.load(p_bias + output))


@jit(do_not_specialize=["rows"])
def head_kernel(
    p_x, p_weight, p_bias, p_logits, p_number, s_number, p_codes, p_log_p, rows, width, eps, largest,
    inverse_temperature, ROWS: tl.constexpr, D: tl.constexpr, VOCAB: tl.constexpr, K: tl.constexpr,
    GREEDY: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """(x - mean) / sqrt(var + eps), then a linear layer to logits; with p_logits these are written.

    Otherwise the first possible code is drawn whose cumulated probability passes the number, the likeliest if
    GREEDY; its log-probability is that of temperature 1. Grid: (blocks of ROWS sequences,).
    """
    code = tl.arange(0, VOCAB)
    input = tl.arange(0, D // K)[:, None, None] * K + tl.arange(0, K)[None, None, :]
    first = tl.program_id(0).to(tl.int64) * ROWS
    weight = load_tile(p_weight, D, VOCAB, K, VOCAB)
    wait_for_launch_before(EARLY)
    for row in range(first, tl.minimum(first + ROWS, rows)):
        x = tl.load(p_x + row * D + input)
        x = tl.where(input < width, x - sum_over_inputs(x) / width, 0.0)
        scale = tl.math.rsqrt(sum_over_inputs(x * x) / width + eps)
        logits = sum_over_inputs(weight * x) * scale + tl.load(p_bias + code)
        if p_logits is not None:
            tl.store(p_logits + row * VOCAB + code, logits)
        else:
            below = logits - tl.max(logits, 0)
            log_p = below - LN_2 * tl.log2(tl.sum(tl.exp2(below * LOG2_E), 0))
            if GREEDY:
                chosen = tl.min(tl.where(below == 0.0, code, VOCAB), 0)
            else:
                number = tl.minimum(tl.load(p_number + row * s_number), largest)
                chosen = draw(tl.exp2(below * (LOG2_E * inverse_temperature)), number)
            tl.store(p_codes + row, chosen.to(tl.int64))
            tl.store(p_log_p + row + tl.zeros_like(code), log_p, mask=code == chosen)


@jit
def draw(p, number):
    """The first possible code whose cumulated share of all p is above the number.

    Where rounding lets none be above it, the last possible one.
    """
    VOCAB: tl.constexpr = p.shape[0]
    code = tl.arange(0, VOCAB)
    passes = tl.cumsum(p, 0) > number * tl.sum(p, 0)
    place = tl.where(passes, code, 2 * VOCAB - code)
    place = tl.min(tl.where(p > 0.0, place, 4 * VOCAB), 0)
    return tl.where(place < VOCAB, place, 2 * VOCAB - place)
