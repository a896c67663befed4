"""A stretch of whole chunks as matrix products per channel, forward and backward.

Channels come first here, and a chunk is a row of numbers beside the state that goes with it,
(d_inner, batch * chunks, rows + T): every product is one batched GEMM. It is in the tables' precision,
float32 for 16-bit x too; on a GPU torch.set_float32_matmul_precision governs it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bioaudio_kernels.lti_scan.carry import carry, carry_back
from bioaudio_kernels.lti_scan.layout import from_channels_first, to_channels_first
from bioaudio_kernels.lti_scan.tables import ChunkTables, TableGradients


def forward_segment(
    x: Float[Tensor, "batch length d_inner"],
    tables: ChunkTables,
    start: Float[Tensor, "d_inner batch rows"],
    y: Float[Tensor, "batch length d_inner"],
    is_complex: bool,
    backend: str,
) -> Float[Tensor, "d_inner batch rows"]:
    """Write y, and return the state at the end of the segment."""
    inputs, end = _states_and_inputs(x, tables, start, is_complex, backend)
    from_channels_first(torch.bmm(inputs, tables.onward), y, backend)
    return end


def _states_and_inputs(
    x: Float[Tensor, "batch length d_inner"],
    tables: ChunkTables,
    start: Float[Tensor, "d_inner batch rows"],
    is_complex: bool,
    backend: str,
) -> tuple[Float[Tensor, "d_inner columns width"], Float[Tensor, "d_inner batch rows"]]:
    """The state that enters each chunk and the chunk's inputs, side by side; and the state after the last."""
    rows = start.shape[2]
    both = _room(x, tables)
    to_channels_first(x, both[..., rows:], backend)
    sums = torch.bmm(both[..., rows:], tables.inject)
    return both, carry(sums, tables.advance, start, both[..., :rows], is_complex, backend)


def _room(x: Float[Tensor, "batch length d_inner"], tables: ChunkTables) -> Tensor:
    """Memory for all chunks of x and a state with each."""
    batch, length, d_inner = x.shape
    _, width, chunk = tables.onward.shape
    return tables.onward.new_empty(d_inner, batch * (length // chunk), width)


def backward_segment(
    x: Float[Tensor, "batch length d_inner"],
    dy: Float[Tensor, "batch length d_inner"],
    tables: ChunkTables,
    start: Float[Tensor, "d_inner batch rows"],
    d_end: Float[Tensor, "d_inner batch rows"],
    dx: Float[Tensor, "batch length d_inner"],
    is_complex: bool,
    backend: str,
) -> tuple[Float[Tensor, "d_inner batch rows"], TableGradients]:
    """Write dx; return the gradients of the state at the start, and of the tables.

    The states that enter the chunks are computed anew from `start`, so the forward pass keeps none.
    """
    rows, chunk = start.shape[2], tables.onward.shape[2]
    inputs, _ = _states_and_inputs(x, tables, start, is_complex, backend)
    slopes = _room(x, tables)
    d_outputs, leaving = slopes[..., :chunk], slopes[..., chunk:]
    to_channels_first(dy, d_outputs, backend)
    sums = torch.bmm(d_outputs, tables.emit.mT)
    d_start, d_advance = carry_back(
        sums, tables.advance, d_end, inputs[..., :rows], leaving, is_complex, backend
    )
    from_channels_first(torch.bmm(slopes, tables.back), dx, backend)
    return d_start, TableGradients(
        onward=torch.bmm(inputs.mT, d_outputs),
        inject=torch.bmm(leaving.mT, inputs[..., rows:]),
        advance=d_advance,
    )
