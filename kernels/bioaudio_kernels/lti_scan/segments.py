"""A stretch of whole chunks as matrix products per channel, forward and backward.

Channels come first here: x as (d_inner, batch * chunks, T), so that every product is one batched GEMM. It is
in the tables' precision, float32 for 16-bit x too; on a GPU torch.set_float32_matmul_precision governs it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from bioaudio_kernels.lti_scan.carry import carry, carry_back
from bioaudio_kernels.lti_scan.layout import from_channels_first, to_channels_first
from bioaudio_kernels.lti_scan.tables import ChunkTables


def toeplitz(taps: Float[Tensor, "d_inner T"]) -> Float[Tensor, "d_inner T T"]:
    """Upper triangular, [s, t] = taps[t - s], so that a row of inputs times it is a row of outputs."""
    chunk = taps.shape[1]
    return F.pad(taps, (chunk - 1, 0)).unfold(1, chunk, 1).flip(1)


def toeplitz_back(gradient: Float[Tensor, "d_inner T T"]) -> Float[Tensor, "d_inner T"]:
    """The gradient of the taps: sums along the diagonals."""
    d_inner, chunk, _ = gradient.shape
    # Rows of 2 T - 1 numbers cut from rows of 2 T shift by one each, so that diagonals become columns.
    rows = F.pad(gradient.flip(1), (0, chunk)).flatten(1)[:, :-chunk]
    return rows.view(d_inner, chunk, 2 * chunk - 1).sum(1)[:, chunk - 1 :]


def forward_segment(
    x: Float[Tensor, "batch length d_inner"],
    tables: ChunkTables,
    start: Float[Tensor, "d_inner batch rows"],
    y: Float[Tensor, "batch length d_inner"],
    is_complex: bool,
    backend: str,
) -> Float[Tensor, "d_inner batch rows"]:
    """Write y, and return the state at the end of the segment."""
    inputs = to_channels_first(x, tables.taps.shape[1], tables.taps.dtype, backend)
    entering, end = _states(inputs, tables, start, is_complex, backend)
    outputs = torch.bmm(inputs, toeplitz(tables.taps)).baddbmm_(entering.flatten(1, 2), tables.emit)
    from_channels_first(outputs, y, backend)
    return end


def _states(
    inputs: Float[Tensor, "d_inner columns T"],
    tables: ChunkTables,
    start: Float[Tensor, "d_inner batch rows"],
    is_complex: bool,
    backend: str,
) -> tuple[Float[Tensor, "d_inner batch chunks rows"], Float[Tensor, "d_inner batch rows"]]:
    """The state that enters each chunk, and the one after the last."""
    sums = torch.bmm(inputs, tables.inject).unflatten(1, (start.shape[1], -1))
    return carry(sums, tables.advance, start, is_complex, backend)


def backward_segment(
    x: Float[Tensor, "batch length d_inner"],
    dy: Float[Tensor, "batch length d_inner"],
    tables: ChunkTables,
    start: Float[Tensor, "d_inner batch rows"],
    d_end: Float[Tensor, "d_inner batch rows"],
    dx: Float[Tensor, "batch length d_inner"],
    is_complex: bool,
    backend: str,
) -> tuple[Float[Tensor, "d_inner batch rows"], ChunkTables]:
    """Write dx; return the gradients of the state at the start, and of the tables.

    The states that enter the chunks are computed anew from `start`, so the forward pass keeps none.
    """
    batch, chunk, dtype = x.shape[0], tables.taps.shape[1], tables.taps.dtype
    inputs, slopes = (to_channels_first(tensor, chunk, dtype, backend) for tensor in (x, dy))
    entering, _ = _states(inputs, tables, start, is_complex, backend)
    sums = torch.bmm(slopes, tables.emit.mT).unflatten(1, (batch, -1))
    leaving, d_start, d_advance = carry_back(sums, tables.advance, d_end, entering, is_complex, backend)
    entering, leaving = entering.flatten(1, 2), leaving.flatten(1, 2)
    d_inputs = torch.bmm(slopes, toeplitz(tables.taps).mT).baddbmm_(leaving, tables.inject.mT)
    from_channels_first(d_inputs, dx, backend)
    return d_start, ChunkTables(
        taps=toeplitz_back(torch.bmm(inputs.mT, slopes)),
        inject=torch.bmm(inputs.mT, leaving),
        emit=torch.bmm(entering.mT, slopes),
        advance=d_advance,
        advance_rest=torch.zeros_like(d_advance),
    )
