"""Method "chunks": steps in chunks as matrix products, the state handed on between them; torch operators."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from bioaudio_kernels.differentiable import register_autograd
from bioaudio_kernels.lti_scan.segments import backward_segment, forward_segment
from bioaudio_kernels.lti_scan.tables import (
    ChunkTables,
    TableGradients,
    as_rows,
    as_states,
    chunk_tables,
    chunk_tables_backward,
    powers,
)

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
    arguments = x, log_decay, B, C, D, initial_state, min(chunk, x.shape[1]), backend
    y, state, _ = torch.ops.bioaudio.lti_chunks.default(*arguments)
    return y, state


class _Stretch(NamedTuple):
    """Steps of x that are worked on at once, whole chunks or the rest of one, and their tables."""

    steps: slice
    tables: ChunkTables


def _stretches(x: Tensor, tables: ChunkTables) -> Iterator[_Stretch]:
    batch, length, d_inner = x.shape
    chunk = tables.onward.shape[2]
    whole = length // chunk * chunk
    for start, end in _borders(batch, length, d_inner, chunk):
        yield _Stretch(slice(start, end), tables if end <= whole else tables.of_rest(length - whole))


def _borders(batch: int, length: int, d_inner: int, chunk: int) -> list[tuple[int, int]]:
    """First step of each stretch and of the next: whole chunks, as many as SEGMENT allows, then the rest."""
    whole = length // chunk * chunk
    longest = max(1, SEGMENT // (batch * d_inner * chunk)) * chunk
    cuts = [*range(0, whole, longest), whole]
    return list(pairwise([*cuts, length] if length > whole else cuts))


def _forward(
    x: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    chunk: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state, and the state at the start of each stretch; these are rows, channels first."""
    is_complex = log_decay.is_complex()
    tables = chunk_tables(log_decay, B, C, D, chunk, x.shape[1] % chunk, backend)
    state = _rows_of(initial_state, x, tables)
    y, starts = torch.empty_like(x, memory_format=torch.contiguous_format), []
    for steps, part in _stretches(x, tables):
        starts.append(state)
        state = forward_segment(x[:, steps], part, state, y[:, steps], is_complex, backend)
    return y, as_states(state.transpose(0, 1), is_complex), torch.stack(starts)


def _rows_of(state: Tensor | None, x: Tensor, tables: ChunkTables) -> Float[Tensor, "d_inner batch rows"]:
    if state is not None:
        return as_rows(state.transpose(0, 1))
    d_inner, rows = tables.advance.shape
    return tables.advance.new_zeros(d_inner, x.shape[0], rows)


def _backward(
    dy: Tensor | None,
    d_state: Tensor | None,
    x: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    starts: Tensor,
    chunk: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, log_decay, B, C, D and the initial state."""
    is_complex, rest = log_decay.is_complex(), x.shape[1] % chunk
    w = None if backend == "triton" else powers(log_decay, chunk + 1)
    tables = chunk_tables(log_decay, B, C, D, chunk, rest, backend, w)
    dy = torch.zeros_like(x) if dy is None else dy
    carry = _rows_of(d_state, x, tables)
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    total, of_rest = None, None
    for (steps, part), start in reversed(list(zip(_stretches(x, tables), starts, strict=True))):
        arguments = x[:, steps], dy[:, steps], part, start, carry, dx[:, steps], is_complex, backend
        carry, gradients = backward_segment(*arguments)
        if rest and steps.stop == x.shape[1]:
            of_rest = gradients
        elif total is None:
            total = gradients
        else:
            for sum_so_far, more in zip(total, gradients, strict=True):
                sum_so_far += more
    assert total is not None
    if of_rest is not None:
        _add_those_of_rest(total, of_rest)
    d_advance_rest = None if of_rest is None else of_rest.advance
    parameters = chunk_tables_backward(total, d_advance_rest, log_decay, B, C, rest, backend, w)
    return dx, *parameters, as_states(carry.transpose(0, 1), is_complex)


def _add_those_of_rest(total: TableGradients, part: TableGradients) -> None:
    """Add the gradients of `ChunkTables.of_rest` to those of the tables of which they are parts."""
    width, rest = part.onward.shape[1:]
    total.onward[:, :width, :rest] += part.onward
    total.inject[..., -rest:] += part.inject


def _fake_forward(
    x: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    chunk: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, d_inner = x.shape
    stretches, rows = len(_borders(batch, length, d_inner, chunk)), _count_rows(log_decay)
    starts = log_decay.new_empty(stretches, d_inner, batch, rows, dtype=log_decay.dtype.to_real())
    return x.new_empty(x.shape), _fake_state(x, log_decay), starts


def _count_rows(log_decay: Tensor) -> int:
    return log_decay.shape[1] * (2 if log_decay.is_complex() else 1)


def _fake_state(x: Tensor, log_decay: Tensor) -> Tensor:
    d_inner, d_state = log_decay.shape
    return log_decay.new_empty(d_inner, x.shape[0], d_state).transpose(0, 1)


def _fake_backward(
    dy: Tensor | None,
    d_state: Tensor | None,
    x: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    starts: Tensor,
    chunk: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dx, d_log_decay, d_B, d_C = (tensor.new_empty(tensor.shape) for tensor in (x, log_decay, B, C))
    return dx, d_log_decay, d_B, d_C, starts.new_empty(x.shape[2]), _fake_state(x, log_decay)


def _setup_context(ctx: Any, arguments: tuple[Any, ...], results: tuple[Tensor, ...]) -> None:
    x, log_decay, B, C, D, initial_state, ctx.chunk, ctx.backend = arguments
    ctx.has_state = initial_state is not None
    ctx.save_for_backward(x, log_decay, B, C, D, results[2])
    ctx.mark_non_differentiable(results[2])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, dy: Tensor | None, d_state: Tensor | None, _: Any) -> tuple[Any, ...]:
    x, log_decay, B, C, D, starts = ctx.saved_tensors
    arguments = dy, d_state, x, log_decay, B, C, D, starts, ctx.chunk, ctx.backend
    with torch.autocast(x.device.type, enabled=False):
        *gradients, d_D, d_start = torch.ops.bioaudio.lti_chunks_backward.default(*arguments)
    return *gradients, None if D is None else d_D, d_start if ctx.has_state else None, None, None


def _define() -> None:
    system = "Tensor log_decay, Tensor B, Tensor C, Tensor? D"
    forward = f"(Tensor x, {system}, Tensor? initial_state, int chunk, str backend)"
    backward = f"(Tensor? dy, Tensor? d_state, Tensor x, {system}, Tensor starts, int chunk, str backend)"
    for name, schema, function, fake in (
        ("lti_chunks", f"{forward} -> (Tensor, Tensor, Tensor)", _forward, _fake_forward),
        ("lti_chunks_backward", f"{backward} -> ({', '.join(['Tensor'] * 6)})", _backward, _fake_backward),
    ):
        torch.library.define(f"bioaudio::{name}", schema)
        torch.library.impl(f"bioaudio::{name}", ("cpu", "cuda"))(function)
        torch.library.register_fake(f"bioaudio::{name}")(fake)
    register_autograd(torch.ops.bioaudio.lti_chunks.default, _differentiate, _setup_context)


_define()
