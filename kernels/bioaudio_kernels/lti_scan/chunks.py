"""Method "chunks": steps in chunks as matrix products, the state handed on between them; torch operators."""

# No `from __future__ import annotations` here: torch reads the operators' schemas from real annotations.
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from bioaudio_kernels.lti_scan.segments import backward_segment, forward_segment
from bioaudio_kernels.lti_scan.tables import ChunkTables, as_rows, as_states, chunk_tables

SEGMENT = 1 << 26
"""Elements of x that are worked on at once, which bounds the memory that the working takes."""


def lti_scan_chunks(
    x: Float[Tensor, "batch length d_inner"],
    log_decay: Inexact[Tensor, "d_inner d_state"],
    B: Inexact[Tensor, "d_inner d_state"],
    C: Inexact[Tensor, "d_inner d_state"],
    D: Float[Tensor, " d_inner"] | None,
    initial_state: Inexact[Tensor, "batch d_inner d_state"] | None,
    chunk: int,
    backend: str,
) -> tuple[Float[Tensor, "batch length d_inner"], Inexact[Tensor, "batch d_inner d_state"]]:
    """See `lti_scan`; parameters and states in one precision, x in any. `chunk` is the T of `tables`."""
    tables = chunk_tables(log_decay, B, C, D, chunk, rest=x.shape[1] % chunk)
    is_complex = log_decay.is_complex()
    if initial_state is None:
        initial_state = log_decay.new_zeros(x.shape[0], *log_decay.shape)
    start = as_rows(initial_state).transpose(0, 1)
    y, end, _ = _chunks(x, *tables, start, is_complex, backend)
    return y, as_states(end.transpose(0, 1), is_complex)


class _Stretch(NamedTuple):
    """Steps of x that are worked on at once, whole chunks or the rest of one, and their tables."""

    steps: slice
    tables: ChunkTables


def _stretches(x: Tensor, tables: ChunkTables) -> Iterator[_Stretch]:
    batch, length, d_inner = x.shape
    chunk = tables.taps.shape[1]
    whole = length // chunk * chunk
    longest = max(1, SEGMENT // (batch * d_inner * chunk)) * chunk
    for start in range(0, whole, longest):
        yield _Stretch(slice(start, min(start + longest, whole)), tables)
    rest = length - whole
    if rest:
        taps, inject, emit, _, advance_rest = tables
        part = ChunkTables(
            taps[:, :rest], inject[:, chunk - rest :], emit[..., :rest], advance_rest, advance_rest
        )
        yield _Stretch(slice(whole, length), part)


def _add_gradients(total: ChunkTables, part: ChunkTables) -> None:
    """Add the gradients of a stretch's tables to those of the tables of which they are parts."""
    rest, chunk = part.taps.shape[1], total.taps.shape[1]
    total.taps[:, :rest] += part.taps
    total.inject[:, chunk - rest :] += part.inject
    total.emit[..., :rest] += part.emit
    (total.advance if rest == chunk else total.advance_rest).add_(part.advance)


@torch.library.custom_op("bioaudio::lti_chunks", mutates_args=())
def _chunks(
    x: Tensor,
    taps: Tensor,
    inject: Tensor,
    emit: Tensor,
    advance: Tensor,
    advance_rest: Tensor,
    start: Tensor,
    is_complex: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state, and the state at the start of each stretch; states are rows, channels first."""
    y, state, starts = torch.empty_like(x, memory_format=torch.contiguous_format), start, []
    for steps, tables in _stretches(x, ChunkTables(taps, inject, emit, advance, advance_rest)):
        starts.append(state)
        state = forward_segment(x[:, steps], tables, state, y[:, steps], is_complex, backend)
    return y, state, torch.stack(starts)


@_chunks.register_fake
def _(x, taps, inject, emit, advance, advance_rest, start, is_complex, backend):
    tables = ChunkTables(taps, inject, emit, advance, advance_rest)
    stretches = len(list(_stretches(x, tables)))
    return x.new_empty(x.shape), start.new_empty(start.shape), start.new_empty(stretches, *start.shape)


@torch.library.custom_op("bioaudio::lti_chunks_backward", mutates_args=())
def _chunks_backward(
    dy: Tensor,
    d_end: Tensor,
    x: Tensor,
    taps: Tensor,
    inject: Tensor,
    emit: Tensor,
    advance: Tensor,
    advance_rest: Tensor,
    starts: Tensor,
    is_complex: bool,
    backend: str,
) -> list[Tensor]:
    """Gradients of x, of the five tables and of the state at the start."""
    tables = ChunkTables(taps, inject, emit, advance, advance_rest)
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    total = ChunkTables(*(torch.zeros_like(t, memory_format=torch.contiguous_format) for t in tables))
    carry = d_end
    stretches = zip(_stretches(x, tables), starts, strict=True)
    for (steps, part), start in reversed(list(stretches)):
        carry, gradients = backward_segment(
            x[:, steps], dy[:, steps], part, start, carry, dx[:, steps], is_complex, backend
        )
        _add_gradients(total, gradients)
    return [dx, *total, carry]


@_chunks_backward.register_fake
def _(dy, d_end, x, taps, inject, emit, advance, advance_rest, starts, is_complex, backend):
    tables = (taps, inject, emit, advance, advance_rest)
    return [t.new_empty(t.shape) for t in (x, *tables, d_end)]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, _, ctx.is_complex, ctx.backend = inputs
    ctx.save_for_backward(*tensors, output[2])


def _differentiate(ctx: Any, dy: Tensor, d_end: Tensor, _: Tensor) -> tuple[Any, ...]:
    with torch.autocast(dy.device.type, enabled=False):
        gradients = _chunks_backward(dy, d_end, *ctx.saved_tensors, ctx.is_complex, ctx.backend)
    return *gradients, None, None


_chunks.register_autograd(_differentiate, setup_context=_setup_context)
