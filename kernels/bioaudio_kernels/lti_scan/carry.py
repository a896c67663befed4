"""Handing the state on from chunk to chunk: the only part of the chunked scan that runs in order.

States are rows of real numbers as `tables` lays them out; columns are the chunks of all sequences, one
sequence after another.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bioaudio_kernels.lti_scan.tables import as_rows, as_states


def carry(
    sums: Float[Tensor, "d_inner columns rows"],
    advance: Float[Tensor, "d_inner rows"],
    start: Float[Tensor, "d_inner batch rows"],
    entering: Float[Tensor, "d_inner columns rows"],
    is_complex: bool,
    backend: str,
) -> Float[Tensor, "d_inner batch rows"]:
    """Write the state that enters each chunk, h[c + 1] = advance * h[c] + sums[c], and return the last.

    `entering` may be a part of each row of a wider tensor.
    """
    if backend == "triton":
        from bioaudio_kernels.lti_scan.carry_triton import carry_triton

        return carry_triton(sums, advance, start, entering, is_complex)
    if backend == "cpu":
        from bioaudio_kernels.lti_scan.carry_cpu import carry_cpu

        return carry_cpu(sums, advance, start, entering, is_complex)
    decay, state = as_states(advance, is_complex).unsqueeze(1), as_states(start, is_complex)
    by_chunk = entering.unflatten(1, (start.shape[1], -1)).unbind(2)
    for into, chunk in zip(by_chunk, sums.unflatten(1, (start.shape[1], -1)).unbind(2), strict=True):
        into.copy_(as_rows(state))
        state = decay * state + as_states(chunk, is_complex)
    return as_rows(state)


def carry_back(
    sums: Float[Tensor, "d_inner columns rows"],
    advance: Float[Tensor, "d_inner rows"],
    d_end: Float[Tensor, "d_inner batch rows"],
    entering: Float[Tensor, "d_inner columns rows"],
    leaving: Float[Tensor, "d_inner columns rows"],
    is_complex: bool,
    backend: str,
) -> tuple[Float[Tensor, "d_inner batch rows"], Float[Tensor, "d_inner rows"]]:
    """Gradients of `carry`, from the last chunk to the first: g[c] = conj(advance) * g[c + 1] + sums[c].

    `sums` are here the gradients that the outputs of a chunk send to the state that enters it, `d_end` is
    that of the final state, and `entering` is what `carry` wrote. Writes the gradient of the state after each
    chunk to `leaving`, which may be a part of each row of a wider tensor.

    Returns:
        The gradients of the first state and of `advance`.
    """
    if backend == "triton":
        from bioaudio_kernels.lti_scan.carry_triton import carry_back_triton

        return carry_back_triton(sums, advance, d_end, entering, leaving, is_complex)
    if backend == "cpu":
        from bioaudio_kernels.lti_scan.carry_cpu import carry_back_cpu

        return carry_back_cpu(sums, advance, d_end, entering, leaving, is_complex)
    batch = d_end.shape[1]
    conjugate = as_rows(as_states(advance, is_complex).conj().resolve_conj())
    backwards = torch.empty_like(sums)
    flipped = sums.unflatten(1, (batch, -1)).flip(2).flatten(1, 2)
    first = carry(flipped, conjugate, d_end, backwards, is_complex, backend)
    leaving.copy_(backwards.unflatten(1, (batch, -1)).flip(2).flatten(1, 2))
    products = as_states(entering, is_complex).conj() * as_states(leaving, is_complex)
    return first, as_rows(products.sum(1))
