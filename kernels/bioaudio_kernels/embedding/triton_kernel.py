# type: ignore  (Triton's language is not Python: pyright cannot type it)
"""The gradient of a table of vectors: sums of rows by token, as products of one-hot vectors and the rows."""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.triton_jit import jit


@jit(do_not_specialize=["steps", "share"])
def gradient_kernel(
    p_tokens, p_dy, p_sums, steps, share, vocab, width,
    STEPS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Sums of a share of the rows of dy, (programs, vocab, width), in float32.

    Grid: (programs, blocks of ROWS tokens, blocks of WIDTH numbers). Tensor cores take numbers of 11 bits,
    three of which are a float32, and add up in float32.
    """
    i_program = tl.program_id(0)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    lane = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    first = i_program.to(tl.int64) * share
    last = tl.minimum(first + share, steps)
    sums = tl.zeros([ROWS, WIDTH], tl.float32)
    for start in range(first, last, STEPS):
        step = start + tl.arange(0, STEPS)
        token = tl.load(p_tokens + step, mask=step < last, other=-1)
        inside = (step < last)[:, None] & (lane < width)[None, :]
        rest = tl.load(p_dy + step[:, None] * width + lane[None, :], mask=inside, other=0.0).to(tl.float32)
        one_hot = (row[:, None] == token[None, :]).to(tl.float32)
        for _ in tl.static_range(3):
            part = (rest.to(tl.int32, bitcast=True) & -(1 << 13)).to(tl.float32, bitcast=True)
            sums = tl.dot(one_hot, part, sums, input_precision="tf32")
            rest -= part
    places = (i_program.to(tl.int64) * vocab + row[:, None]) * width + lane[None, :]
    tl.store(p_sums + places, sums, mask=(row < vocab)[:, None] & (lane < width)[None, :])
