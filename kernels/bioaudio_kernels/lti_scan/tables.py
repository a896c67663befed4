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

    def of_rest(self, rest: int) -> ChunkTables:
        """The parts of them that are the tables of a shorter chunk."""
        rows, cut = self.advance.shape[1], self.back.shape[2] - rest
        part = self.onward[:, : rows + rest, :rest], self.back[:, cut:, cut:]
        return ChunkTables(*part, self.advance_rest, self.advance_rest)


class TableGradients(NamedTuple):
    """Gradients of `ChunkTables`; that of the Toeplitz matrix stands in `onward` alone."""

    onward: Float[Tensor, "d_inner width T"]
    inject: Float[Tensor, "d_inner rows T"]
    """Transposed, as it stands in `back`."""
    advance: Float[Tensor, "d_inner rows"]


def chunk_tables(
    log_decay: Inexact[Tensor, "d_inner d_state"],
    B: Inexact[Tensor, "d_inner d_state"],
    C: Inexact[Tensor, "d_inner d_state"],
    D: Float[Tensor, " d_inner"] | None,
    chunk: int,
    rest: int,
    backend: str,
    w: Inexact[Tensor, "d_inner d_state steps"] | None = None,
) -> ChunkTables:
    """Tables for chunks of `chunk` steps and a last one of `rest`, in the precision of log_decay.

    `w` is `powers(log_decay, chunk + 1)`, if the caller has it; the Triton kernel has no use for it.
    """
    if backend == "triton":
        from bioaudio_kernels.lti_scan.tables_triton import chunk_tables_triton

        return chunk_tables_triton(log_decay, B, C, D, chunk, rest)
    w = powers(log_decay, chunk + 1) if w is None else w
    taps, emit, inject = chunk_responses(w, B, C, D)
    # [i, j] = taps[i + j - (T - 1)]: the Toeplitz matrix turned upside down, or its transpose left to right.
    turned = F.pad(taps, (chunk - 1, 0)).unfold(1, chunk, 1)
    return ChunkTables(
        torch.cat([emit, turned.flip(1)], 1),
        torch.cat([turned.flip(2), inject], 1),
        as_rows(w[..., chunk]),
        as_rows(w[..., rest]),
    )


def chunk_responses(
    w: Inexact[Tensor, "d_inner d_state steps"],
    B: Inexact[Tensor, "d_inner d_state"],
    C: Inexact[Tensor, "d_inner d_state"],
    D: Float[Tensor, " d_inner"] | None,
) -> tuple[Float[Tensor, "d_inner T"], Float[Tensor, "d_inner rows T"], Float[Tensor, "d_inner rows T"]]:
    """taps, emit and inject, the latter transposed, from the powers of the decays from 0 to T."""
    response = rows_of_output(C.unsqueeze(2) * w)
    taps = (as_rows(B).unsqueeze(1) @ response[..., :-1]).squeeze(1)
    if D is not None:
        taps = torch.cat([taps[:, :1] + D.unsqueeze(1), taps[:, 1:]], 1)
    return taps, response[..., 1:], as_rows(w[..., :-1] * B.unsqueeze(2), 1).flip(2)


def chunk_tables_backward(
    gradients: TableGradients,
    d_advance_rest: Float[Tensor, "d_inner rows"] | None,
    log_decay: Inexact[Tensor, "d_inner d_state"],
    B: Inexact[Tensor, "d_inner d_state"],
    C: Inexact[Tensor, "d_inner d_state"],
    rest: int,
    backend: str,
    w: Inexact[Tensor, "d_inner d_state steps"] | None = None,
) -> tuple[
    Inexact[Tensor, "d_inner d_state"],
    Inexact[Tensor, "d_inner d_state"],
    Inexact[Tensor, "d_inner d_state"],
    Float[Tensor, " d_inner"],
]:
    """Gradients of log_decay, B, C and D from those of the tables; `w` as in `chunk_tables`.

    All tables are c w^k with c one of C, B, B C and 1. So two sums over k are enough for each: of w^k g_k for
    c, and of k w^k g_k for log_decay. Conjugates of gradients are summed, not of powers.
    """
    if backend == "triton":
        from bioaudio_kernels.lti_scan.tables_triton import chunk_tables_backward_triton

        return chunk_tables_backward_triton(gradients, d_advance_rest, log_decay, B, C, rest)
    is_complex = log_decay.is_complex()
    _, rows, chunk = gradients.inject.shape
    w = powers(log_decay, chunk + 1) if w is None else w
    d_taps = sums_of_diagonals(gradients.onward[:, rows:])
    k = torch.arange(chunk + 1, device=w.device, dtype=d_taps.dtype)
    weights = torch.stack([torch.ones_like(k), k], 1).to(w.dtype)

    # A gradient of emit is of the conjugate already, as its rows hold the real part of a product, twice.
    to_emit = as_states(gradients.onward[:, :rows], is_complex, 1)
    to_inject = as_states(gradients.inject.flip(2), is_complex, 1).conj()
    of_C, slope_C = ((w[..., 1:] * to_emit) @ weights[1:]).unbind(2)
    of_B, slope_B = ((w[..., :chunk] * to_inject) @ weights[:chunk]).unbind(2)
    of_BC, slope_BC = (w[..., :chunk] @ (d_taps.unsqueeze(2) * weights[:chunk])).unbind(2)
    twice = 2 if is_complex else 1
    d_B, d_C = of_B + twice * C * of_BC, twice * (of_C + B * of_BC)
    slope = twice * C * (slope_C + B * slope_BC) + B * slope_B
    slope = slope + chunk * w[..., chunk] * as_states(gradients.advance, is_complex).conj()
    if d_advance_rest is not None:
        slope = slope + rest * w[..., rest] * as_states(d_advance_rest, is_complex).conj()
    slope, d_B, d_C = (sums.conj().resolve_conj() for sums in (slope, d_B, d_C))
    return slope, d_B, d_C, d_taps[:, 0].contiguous()


def powers(
    log_decay: Inexact[Tensor, "d_inner d_state"], count: int, stride: int = 1
) -> Inexact[Tensor, "d_inner d_state count"]:
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
    exponentials = torch.exp(k * wide.unsqueeze(2)).to(log_decay.dtype)
    coarse, fine = exponentials.split((outer, inner), 2)
    return (coarse.unsqueeze(3) * fine.unsqueeze(2)).flatten(2)[..., :count]


def sums_of_diagonals(matrices: Float[Tensor, "d_inner T T"]) -> Float[Tensor, "d_inner T"]:
    """Sums over s of [s, s + k]: the gradient of the taps from that of their Toeplitz matrix."""
    d_inner, chunk, _ = matrices.shape
    # Rows of 2 T - 1 numbers cut from rows of 2 T shift by one each, so that diagonals become columns.
    rows = F.pad(matrices.flip(1), (0, chunk)).flatten(1)[:, :-chunk]
    return rows.view(d_inner, chunk, 2 * chunk - 1).sum(1)[:, chunk - 1 :]


def as_rows(states: Inexact[Tensor, "*states"], dim: int = -1) -> Float[Tensor, "*rows"]:
    """All real parts before all imaginary parts along an axis; a real tensor as it is."""
    return torch.cat([states.real, states.imag], dim) if states.is_complex() else states


def as_states(rows: Float[Tensor, "*rows"], is_complex: bool, dim: int = -1) -> Inexact[Tensor, "*states"]:
    """The inverse of `as_rows`."""
    return torch.complex(*rows.chunk(2, dim)) if is_complex else rows


def rows_of_output(weights: Inexact[Tensor, "d_inner d_state T"]) -> Float[Tensor, "d_inner rows T"]:
    """Real weights w' with w' . as_rows(h) = w . h, or 2 Re(w . h) if complex."""
    return torch.cat([2 * weights.real, -2 * weights.imag], 1) if weights.is_complex() else weights
