"""What a chunk of steps does to its inputs and to the state that enters it, as small matrices per channel.

With w = exp(log_decay) and a chunk of T steps that the state h enters:

    y_t  = sum_{s <= t} taps[t - s] x_s + emit[:, t] . h        taps[k]    = C . w^k B, + D at k = 0
    h'   = advance * h + sum_t inject[t] x_t                     emit[:, t] = C w^(t + 1)
                                                                 inject[t]  = w^(T - 1 - t) B
                                                                 advance    = w^T

A complex state is kept as two rows of real numbers, all real parts before all imaginary parts: `rows` is
d_state if the system is real, else 2 d_state. Products with tables are then real matrix products.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Inexact
from torch import Tensor


class ChunkTables(NamedTuple):
    """The matrices of a chunk of T steps; a shorter last chunk uses parts of them and its own advance."""

    taps: Float[Tensor, "d_inner T"]
    inject: Float[Tensor, "d_inner T rows"]
    emit: Float[Tensor, "d_inner rows T"]
    advance: Float[Tensor, "d_inner rows"]
    advance_rest: Float[Tensor, "d_inner rows"]


def chunk_tables(
    log_decay: Inexact[Tensor, "d_inner d_state"],
    B: Inexact[Tensor, "d_inner d_state"],
    C: Inexact[Tensor, "d_inner d_state"],
    D: Float[Tensor, " d_inner"] | None,
    chunk: int,
    rest: int,
) -> ChunkTables:
    """Tables for chunks of `chunk` steps and a last one of `rest`, in the precision of log_decay.

    Differentiable: gradients of the tables become gradients of the parameters by autograd.
    """
    w = powers(log_decay, chunk + 1)
    emit = as_rows_of_output(C.unsqueeze(1) * w[:, 1:])
    taps = torch.cat([_first_tap(B, C), (as_rows(B).unsqueeze(1) @ emit[..., : chunk - 1]).squeeze(1)], 1)
    if D is not None:
        taps = torch.cat([taps[:, :1] + D.unsqueeze(1), taps[:, 1:]], 1)
    inject = as_rows(w[:, :chunk].flip(1) * B.unsqueeze(1))
    return ChunkTables(taps, inject, emit, as_rows(w[:, chunk]), as_rows(w[:, rest]))


def _first_tap(B: Tensor, C: Tensor) -> Tensor:
    product = (B * C).sum(1, keepdim=True)
    return 2 * product.real if product.is_complex() else product


def powers(
    log_decay: Inexact[Tensor, "d_inner d_state"], count: int, stride: int = 1
) -> Inexact[Tensor, "d_inner count d_state"]:
    """exp(k * stride * log_decay) for k from 0 to count - 1, in the precision of log_decay.

    The phase k * Im(log_decay) reaches thousands of turns, and float32 would lose its digits. So exponentials
    are taken in float64, of about 2 sqrt(count) exponents; products of pairs of them are the table.
    """
    inner = max(1, int(count**0.5))
    outer = -(-count // inner)
    exponent = log_decay.to(torch.complex128 if log_decay.is_complex() else torch.float64).unsqueeze(1)

    def exponentials(number: int, step: int) -> Tensor:
        k = torch.arange(number, device=log_decay.device, dtype=torch.float64) * step
        return torch.exp(k.unsqueeze(1) * exponent).to(log_decay.dtype)

    coarse, fine = exponentials(outer, inner * stride), exponentials(inner, stride)
    return (coarse.unsqueeze(2) * fine.unsqueeze(1)).flatten(1, 2)[:, :count]


def as_rows(states: Inexact[Tensor, "*axes d_state"]) -> Float[Tensor, "*axes rows"]:
    """Real and imaginary parts one after the other; a real tensor as it is."""
    return torch.cat([states.real, states.imag], -1) if states.is_complex() else states


def as_states(rows: Float[Tensor, "*axes rows"], is_complex: bool) -> Inexact[Tensor, "*axes d_state"]:
    """The inverse of `as_rows`."""
    return torch.complex(*rows.chunk(2, -1)) if is_complex else rows


def as_rows_of_output(
    weights: Inexact[Tensor, "d_inner T d_state"],
) -> Float[Tensor, "d_inner rows T"]:
    """Real weights w' with w' . as_rows(h) = w . h, or 2 Re(w . h) if complex."""
    rows = torch.cat([2 * weights.real, -2 * weights.imag], -1) if weights.is_complex() else weights
    return rows.mT
