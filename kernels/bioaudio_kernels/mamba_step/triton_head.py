# type: ignore  (Triton's language is not Python: pyright cannot type it)
"""What stands between stages and after the last one on Triton: projections, head, and the draw of a code."""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.mamba_step.triton_block import load_tile, product
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
    p_x, p_norm, p_weight, p_bias, p_logits, p_number, s_number, p_codes, p_log_p, rows, width, eps, largest,
    inverse_temperature, ROWS: tl.constexpr, D: tl.constexpr, VOCAB: tl.constexpr, K: tl.constexpr,
    GREEDY: tl.constexpr,
):  # fmt: skip
    """Layer norm and head; with p_logits these are written, else a code is drawn from them: see `draw`.

    p_norm holds weight and bias; codes there only to fill up have a bias of -inf. Grid: (blocks of ROWS,).
    """
    lane, code = tl.arange(0, D), tl.arange(0, VOCAB)
    first = tl.program_id(0).to(tl.int64) * ROWS
    weight = load_tile(p_weight, D, VOCAB, K, VOCAB)
    for row in range(first, tl.minimum(first + ROWS, rows)):
        x = tl.load(p_x + row * D + lane)
        x = tl.where(lane < width, x - tl.sum(x, 0) / width, 0.0)
        x *= tl.math.rsqrt(tl.sum(x * x, 0) / width + eps)
        x = x * tl.load(p_norm + lane) + tl.load(p_norm + D + lane)
        logits = product(weight, x) + tl.load(p_bias + code)
        if p_logits is not None:
            tl.store(p_logits + row * VOCAB + code, logits)
        else:
            number = tl.minimum(tl.load(p_number + row * s_number), largest)
            chosen, log_p = draw(logits, number, inverse_temperature, GREEDY)
            tl.store(p_codes + row, chosen.to(tl.int64))
            tl.store(p_log_p + row, log_p)


@jit
def draw(logits, number, inverse_temperature, GREEDY: tl.constexpr):
    """The first possible code whose cumulated probability passes the number, and its log-probability.

    The likeliest if GREEDY. The log-probability is that of temperature 1.
    """
    VOCAB: tl.constexpr = logits.shape[0]
    code = tl.arange(0, VOCAB)
    below = logits - tl.max(logits, 0)
    log_p = below - LN_2 * tl.log2(tl.sum(tl.exp2(below * LOG2_E), 0))
    if GREEDY:
        chosen = tl.min(tl.where(below == 0.0, code, VOCAB), 0)
    else:
        p = tl.exp2(below * (LOG2_E * inverse_temperature))
        total = tl.cumsum(p, 0)
        whole = tl.sum(tl.where(code == VOCAB - 1, total, 0.0), 0)
        passes = (p > 0.0) & (total > number * whole)
        # Sums of a scan need not rise with every code: the last possible one is there if none passes.
        last = tl.max(tl.where(p > 0.0, code, 0), 0)
        chosen = tl.minimum(tl.min(tl.where(passes, code, VOCAB), 0), last)
    return chosen, tl.sum(tl.where(code == chosen, log_p, 0.0), 0)
