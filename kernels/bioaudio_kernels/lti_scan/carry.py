"""Handing the state on from chunk to chunk: the only part of the chunked scan that runs in order.

States are rows of real numbers as `tables` lays them out; channels come first, then sequences, then chunks.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bioaudio_kernels.lti_scan.tables import as_rows, as_states


def carry(
    sums: Float[Tensor, "d_inner batch chunks rows"],
    advance: Float[Tensor, "d_inner rows"],
    start: Float[Tensor, "d_inner batch rows"],
    is_complex: bool,
    backend: str,
) -> tuple[Float[Tensor, "d_inner batch chunks rows"], Float[Tensor, "d_inner batch rows"]]:
    """The state that enters each chunk, and the state after the last: h[c + 1] = advance * h[c] + sums[c]."""
    if backend == "triton":
        from bioaudio_kernels.lti_scan.carry_triton import carry_triton

        return carry_triton(sums, advance, start, is_complex)
    if backend == "cpu":
        from bioaudio_kernels.lti_scan.carry_cpu import carry_cpu

        return carry_cpu(sums, advance, start, is_complex)
    decay, state = as_states(advance, is_complex).unsqueeze(1), as_states(start, is_complex)
    entering = []
    for chunk in as_states(sums, is_complex).unbind(2):
        entering.append(state)
        state = decay * state + chunk
    return as_rows(torch.stack(entering, 2)), as_rows(state)


def carry_back(
    sums: Float[Tensor, "d_inner batch chunks rows"],
    advance: Float[Tensor, "d_inner rows"],
    start: Float[Tensor, "d_inner batch rows"],
    entering: Float[Tensor, "d_inner batch chunks rows"],
    is_complex: bool,
    backend: str,
) -> tuple[
    Float[Tensor, "d_inner batch chunks rows"],
    Float[Tensor, "d_inner batch rows"],
    Float[Tensor, "d_inner rows"],
]:
    """Gradients of `carry`, from the last chunk to the first: g[c] = conj(advance) * g[c + 1] + sums[c].

    `sums` are here the gradients that the outputs of a chunk send to the state that enters it, `start` is
    that of the final state, and `entering` is what `carry` returned.

    Returns:
        The gradient of the state after each chunk, that of the first state, and that of `advance`.
    """
    if backend == "triton":
        from bioaudio_kernels.lti_scan.carry_triton import carry_back_triton

        return carry_back_triton(sums, advance, start, entering, is_complex)
    if backend == "cpu":
        from bioaudio_kernels.lti_scan.carry_cpu import carry_back_cpu

        return carry_back_cpu(sums, advance, start, entering, is_complex)
    conjugate = as_rows(as_states(advance, is_complex).conj().resolve_conj())
    leaving, first = carry(sums.flip(2), conjugate, start, is_complex, backend)
    leaving = leaving.flip(2)
    products = as_states(entering, is_complex).conj() * as_states(leaving, is_complex)
    return leaving, first, as_rows(products.sum((1, 2)))
