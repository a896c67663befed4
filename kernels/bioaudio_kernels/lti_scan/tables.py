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
import torch.nn.functional as F
from jaxtyping import Float, Inexact
from torch import Tensor


class ChunkTables(NamedTuple):
    """The matrices of a chunk of T steps, stacked as the products of `segments` read them."""

    onward: Float[Tensor, "d_inner width T"]
    """emit over the Toeplitz matrix of the taps, [s, t] = taps[t - s]: from (h, x) to y."""
    back: Float[Tensor, "d_inner width T"]
    """The transposed Toeplitz matrix over the transposed inject: from gradients of (y, h') to that of x."""
    advance: Float[Tensor, "d_inner rows"]
    advance_rest: Float[Tensor, "d_inner rows"]
    """`advance` of the last chunk, which is shorter."""

    @property
    def emit(self) -> Float[Tensor, "d_inner rows T"]:
        """From the state that enters to the outputs."""
        return self.onward[:, : self.advance.shape[1]]

    @property
    def inject(self) -> Float[Tensor, "d_inner T rows"]:
        """From the inputs to the state that leaves."""
        return self.back[:, -self.advance.shape[1] :].mT

    @property
    def first_tap(self) -> Float[Tensor, "d_inner 1"]:
        """From an input to the output of its own step."""
        return self.back[:, 0, :1]

    def of_rest(self, rest: int) -> ChunkTables:
        """The parts of them that are the tables of a shorter chunk."""
        rows, cut = self.advance.shape[1], self.back.shape[2] - rest
        part = self.onward[:, : rows + rest, :rest], self.back[:, cut:, cut:]
        return ChunkTables(*part, self.advance_rest, self.advance_rest)


class TableGradients(NamedTuple):
    """Gradients of `ChunkTables`; that of the Toeplitz matrix stands in `onward` alone."""

    onward: Float[Tensor, "d_inner width T"]
    inject: Float[Tensor, "d_inner T rows"]
    advance: Float[Tensor, "d_inner rows"]


def chunk_tables(
    log_decay: Inexact[Tensor, "d_inner d_state"],
    B: Inexact[Tensor, "d_inner d_state"],
    C: Inexact[Tensor, "d_inner d_state"],
    D: Float[Tensor, " d_inner"] | None,
    chunk: int,
    rest: int,
    backend: str,
) -> ChunkTables:
    """Tables for chunks of `chunk` steps and a last one of `rest`, in the precision of log_decay."""
    if backend == "triton":
        from bioaudio_kernels.lti_scan.tables_triton import chunk_tables_triton

        return chunk_tables_triton(log_decay, B, C, D, chunk, rest)
    w = powers(log_decay, chunk + 1)
    response = as_rows_of_output(C.unsqueeze(1) * w)
    taps = (as_rows(B).unsqueeze(1) @ response[..., :chunk]).squeeze(1)
    if D is not None:
        taps = torch.cat([taps[:, :1] + D.unsqueeze(1), taps[:, 1:]], 1)
    matrix = toeplitz(taps)
    inject = as_rows(w[:, :chunk] * B.unsqueeze(1)).flip(1)
    return ChunkTables(
        torch.cat([response[..., 1:], matrix], 1),
        torch.cat([matrix, inject], 2).mT,
        as_rows(w[:, chunk]),
        as_rows(w[:, rest]),
    )


def chunk_tables_backward(
    gradients: TableGradients,
    d_advance_rest: Float[Tensor, "d_inner rows"] | None,
    log_decay: Inexact[Tensor, "d_inner d_state"],
    B: Inexact[Tensor, "d_inner d_state"],
    C: Inexact[Tensor, "d_inner d_state"],
    rest: int,
    backend: str,
) -> tuple[
    Inexact[Tensor, "d_inner d_state"],
    Inexact[Tensor, "d_inner d_state"],
    Inexact[Tensor, "d_inner d_state"],
    Float[Tensor, " d_inner"],
]:
    """Gradients of log_decay, B, C and D from those of the tables.

    All tables are c w^k with c one of C, B, B C and 1. So two sums over k are enough for each: of w^k g_k for
    c, and of k w^k g_k for log_decay. Conjugates of gradients are summed, not of powers.
    """
    if backend == "triton":
        from bioaudio_kernels.lti_scan.tables_triton import chunk_tables_backward_triton

        return chunk_tables_backward_triton(gradients, d_advance_rest, log_decay, B, C, rest)
    is_complex, chunk = log_decay.is_complex(), gradients.inject.shape[1]
    rows = gradients.inject.shape[2]
    w = powers(log_decay, chunk + 1)
    d_taps = toeplitz_back(gradients.onward[:, rows:])
    k = torch.arange(chunk + 1, device=w.device, dtype=d_taps.dtype)
    weights = torch.stack([torch.ones_like(k), k])

    # A gradient of emit is of the conjugate already, as its rows hold the real part of a product, twice.
    to_emit = as_states(gradients.onward[:, :rows].mT, is_complex)
    to_inject = as_states(gradients.inject.flip(1), is_complex).conj()
    of_C, slope_C = _sums(weights[:, 1:], w[:, 1:] * to_emit)
    of_B, slope_B = _sums(weights[:, :chunk], w[:, :chunk] * to_inject)
    of_BC, slope_BC = _sums(weights[:, :chunk] * d_taps.unsqueeze(1), w[:, :chunk])
    twice = 2 if is_complex else 1
    d_B, d_C = of_B + twice * C * of_BC, twice * (of_C + B * of_BC)
    slope = twice * C * (slope_C + B * slope_BC) + B * slope_B
    slope = slope + chunk * w[:, chunk] * as_states(gradients.advance, is_complex).conj()
    if d_advance_rest is not None:
        slope = slope + rest * w[:, rest] * as_states(d_advance_rest, is_complex).conj()
    slope, d_B, d_C = (sums.conj().resolve_conj() for sums in (slope, d_B, d_C))
    return slope, d_B, d_C, d_taps[:, 0].contiguous()


def _sums(weights: Tensor, numbers: Tensor) -> tuple[Tensor, ...]:
    """Two weighted sums of numbers (d_inner, T, d_state) over T, with real weights (..., 2, T)."""
    if not numbers.is_complex():
        return (weights @ numbers).unbind(1)
    pairs = torch.view_as_real(numbers).flatten(-2)
    return torch.view_as_complex((weights @ pairs).unflatten(-1, (-1, 2))).unbind(1)


def powers(
    log_decay: Inexact[Tensor, "d_inner d_state"], count: int, stride: int = 1
) -> Inexact[Tensor, "d_inner count d_state"]:
    """exp(k * stride * log_decay) for k from 0 to count - 1, in the precision of log_decay.

    The phase k * Im(log_decay) reaches thousands of turns, and float32 would lose its digits. So exponentials
    are taken in float64, of about 2 sqrt(count) exponents; products of pairs of them are the table.
    """
    inner = max(1, int(count**0.5))
    outer = -(-count // inner)
    k = torch.cat(
        [
            torch.arange(0, number * step, step, dtype=torch.float64, device=log_decay.device)
            for number, step in ((outer, inner * stride), (inner, stride))
        ]
    )
    wide = log_decay.to(torch.complex128 if log_decay.is_complex() else torch.float64)
    exponentials = torch.exp(k.unsqueeze(1) * wide.unsqueeze(1)).to(log_decay.dtype)
    coarse, fine = exponentials.split((outer, inner), 1)
    return (coarse.unsqueeze(2) * fine.unsqueeze(1)).flatten(1, 2)[:, :count]


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
