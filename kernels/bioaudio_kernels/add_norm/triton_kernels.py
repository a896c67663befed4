# type: ignore  (Triton's language is not Python: pyright cannot type it)
"""The sum s = residual + y, its RMS norm or layer norm, and the gradients of both.

With c = s, or s - mean(s) for a layer norm, r = 1 / sqrt(mean(c²) + eps), u = c r and g = weight * d_normed,
row by row:

    normed = u weight    ds = r (g - u mean(u g)) + d_total    d_weight = sum over rows of u d_normed

A layer norm has a bias, added to normed, whose gradient is the sum of d_normed, and r (... - mean(g)) in ds.

A program takes ROWS rows at a time, whole, so that a row's sums stay in its registers.
"""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.triton_jit import jit


@jit
def tile(row, rows, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Places of the elements of ROWS rows from `row` on, and which exist."""
    row += tl.arange(0, ROWS)
    lanes = tl.arange(0, BLOCK)
    places = row.to(tl.int64)[:, None] * width + lanes[None, :]
    return row, places, (row < rows)[:, None] & (lanes < width)[None, :]


@jit(do_not_specialize=["rows"])
def forward_kernel(
    p_y, p_residual, p_weight, p_bias, p_normed, p_total, p_rstd, rows, width, eps,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid: (blocks of ROWS rows,). Without p_y the sum is the residual, which is there already.

    With p_bias it is a layer norm.
    """
    lanes = tl.arange(0, BLOCK)
    row, places, mask = tile(tl.program_id(0) * ROWS, rows, width, ROWS, BLOCK)
    weight = tl.load(p_weight + lanes, mask=lanes < width, other=0.0).to(tl.float32)
    total = tl.load(p_residual + places, mask=mask, other=0.0)
    if p_y is not None:
        total += tl.load(p_y + places, mask=mask, other=0.0).to(tl.float32)
        tl.store(p_total + places, total, mask=mask)
    if p_bias is not None:
        total = tl.where(mask, total - (tl.sum(total, 1) / width)[:, None], 0.0)
    rstd = tl.math.rsqrt(tl.sum(total * total, 1) / width + eps)
    tl.store(p_rstd + row, rstd, mask=row < rows)
    normed = total * rstd[:, None] * weight[None, :]
    if p_bias is not None:
        normed += tl.load(p_bias + lanes, mask=lanes < width, other=0.0).to(tl.float32)[None, :]
    tl.store(p_normed + places, normed, mask=mask)


@jit(do_not_specialize=["rows", "steps"])
def backward_kernel(
    p_d_normed, p_d_total, p_total, p_weight, p_rstd, p_d_residual, p_d_y, p_d_params, rows, width, steps,
    CENTRED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid: (blocks of steps * ROWS rows,). Each program has rows of p_d_params of its own."""
    i_block = tl.program_id(0)
    lanes = tl.arange(0, BLOCK)
    weight = tl.load(p_weight + lanes, mask=lanes < width, other=0.0).to(tl.float32)
    d_weight = tl.zeros([ROWS, BLOCK], tl.float32)
    d_bias = tl.zeros([ROWS, BLOCK], tl.float32)
    for i in range(steps):
        row, places, mask = tile((i_block * steps + i) * ROWS, rows, width, ROWS, BLOCK)
        d_normed = tl.load(p_d_normed + places, mask=mask, other=0.0).to(tl.float32)
        rstd = tl.load(p_rstd + row, mask=row < rows, other=0.0)[:, None]
        total = tl.load(p_total + places, mask=mask, other=0.0)
        if CENTRED:
            total = tl.where(mask, total - (tl.sum(total, 1) / width)[:, None], 0.0)
            d_bias += d_normed
        unit = total * rstd
        d_weight += unit * d_normed
        d_unit = d_normed * weight[None, :]
        along = tl.sum(unit * d_unit, 1) / width
        d_sum = d_unit - unit * along[:, None]
        if CENTRED:
            d_sum -= (tl.sum(d_unit, 1) / width)[:, None]
        d_sum *= rstd
        if p_d_total is not None:
            d_sum += tl.load(p_d_total + places, mask=mask, other=0.0)
        tl.store(p_d_residual + places, d_sum, mask=mask)
        if p_d_y is not None:
            tl.store(p_d_y + places, d_sum, mask=mask)
    own = p_d_params + i_block.to(tl.int64) * width * (2 if CENTRED else 1) + lanes
    tl.store(own, tl.sum(d_weight, 0), mask=lanes < width)
    if CENTRED:
        tl.store(own + width, tl.sum(d_bias, 0), mask=lanes < width)
