# type: ignore  (Triton's language is not Python: pyright cannot type it)
"""Sums of what the programs of a backward pass leave of the gradients of parameters."""

from __future__ import annotations

import torch
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from bioaudio_kernels.integers import ceil_div, next_power_of_2
from bioaudio_kernels.triton_jit import jit

BLOCK = 32
"""Numbers of a row in one program: a line of memory."""
MOST_ROWS = 256
"""Rows that a program loads at once, at most."""


@jit(do_not_specialize=["rows", "columns"])
def sum_over_rows_kernel(p_x, p_y, rows, columns, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """y (columns,) of x (rows, columns). Grid: (blocks of columns,)."""
    column = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[None, :]
    row = tl.arange(0, ROWS)[:, None]
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for first in range(0, rows, ROWS):
        inside = (first + row < rows) & (column < columns)
        total += tl.load(p_x + (first + row).to(tl.int64) * columns + column, mask=inside, other=0.0)
    column = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(p_y + column, tl.sum(total, 0), mask=column < columns)


def sum_over_rows(x: Float[Tensor, "rows ..."]) -> Float[Tensor, " ..."]:
    """The sum over the first dimension of a float32 tensor, the same bits every time."""
    y = x.new_empty(x.shape[1:])
    if y.numel() == 0:
        return y
    rows = min(MOST_ROWS, next_power_of_2(len(x)))
    with torch.cuda.device_of(x):
        sum_over_rows_kernel[(ceil_div(y.numel(), BLOCK),)](
            x.contiguous(), y, len(x), y.numel(), ROWS=rows, BLOCK=BLOCK, num_warps=8 if rows > 64 else 4
        )
    return y
