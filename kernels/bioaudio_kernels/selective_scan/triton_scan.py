"""The selective scan and its gradient as sequences of kernels; `triton_op` makes operators of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from bioaudio_kernels.selective_scan.triton_chunk_table import cut_into_chunks
from bioaudio_kernels.selective_scan.triton_config import ScanConfig, state_blocks
from bioaudio_kernels.selective_scan.triton_launch import (
    ScanInputs,
    Segment,
    launch_chunk_scan,
    launch_chunk_states,
    launch_forward_sweep,
    launch_outputs,
    launch_reverse_sweep,
    launch_sum_rows,
)
from bioaudio_kernels.triton_sums import sum_over_rows


def scan_forward(
    inputs: ScanInputs,
    cu_seqlens: Tensor | None,
    config: ScanConfig,
    enter: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state (sequences, d_inner, values), and the states that enter the chunks.

    Those are (chunks, values, d_inner), where values is d_state * parts.

    With `enter`, which needs cu_seqlens, sequences are shards of longer ones: it takes the states that they
    reach, shaped like the final state, and the chunks' sums of dt (chunks, d_inner), zero for the last chunk
    of each; it gives the states that enter the sequences in place of the initial ones.
    """
    batch, length, d_inner, d_state = inputs.sizes
    device = inputs.x.device
    chunks = cut_into_chunks(
        batch, length, config.chunk, cu_seqlens, inputs.reverse, device, all_full=enter is not None
    )
    y = torch.empty(batch, length, d_inner, dtype=inputs.x.dtype, device=device)
    # Channels are neighbours in memory, as in every kernel; the view has the public order.
    values = inputs.A.shape[1]
    final_state = torch.empty(chunks.sequences, values, d_inner, device=device, dtype=torch.float32)
    several = state_blocks(d_state, inputs.parts)[0] > 1
    sums = torch.empty_like(y, dtype=torch.float32) if several else None
    make = (
        torch.empty if enter is None else torch.zeros
    )  # of the last chunks, which get no state of their own
    states = make(chunks.total, values, d_inner, device=device, dtype=torch.float32)
    sigma = make(chunks.total, d_inner, device=device, dtype=torch.float32)
    if chunks.per_sequence != 1:
        launch_chunk_states(inputs, states, sigma, chunks, config)
    start = inputs.initial_state
    if enter is not None:
        entering = states.clone()
        launch_chunk_scan(entering, sigma, inputs, start, None, chunks, backwards=False)
        # Only the last chunks need a pass to the end; the outputs are written again below.
        last, rows = chunks.last()
        launch_outputs(inputs, entering[rows], y, final_state, sums, last, config)
        start = enter(final_state.mT, sigma)
    launch_chunk_scan(states, sigma, inputs, start, None, chunks, backwards=False)
    launch_outputs(inputs, states, y, final_state, sums, chunks, config)
    return y, final_state.mT, states


def scan_backward(
    inputs: ScanInputs,
    cu_seqlens: Tensor | None,
    states: Tensor,
    dy: Tensor,
    d_final: Tensor | None,
    config: ScanConfig,
    enter: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, ...]:
    """Gradients of the nine tensors of `inputs`, from those of y and of the final state.

    Segments of the chunks are taken from the last to the first, so that no buffer grows with the length; the
    carry is the gradient at the state that enters the segment. dx, ddt, dB, dC and dz have the dtypes of
    their tensors, the others float32. Those of absent tensors mean nothing.

    With `enter`, as in the forward pass, it takes the gradients of the initial states that belong to dy and
    d_final, and gives the gradient that the final state really has. A shard of several segments is swept once
    more for that.
    """
    batch, length, d_inner, _ = inputs.sizes
    x, dt, z = inputs.x, inputs.dt, inputs.z
    device = x.device
    chunks = cut_into_chunks(
        batch, length, config.chunk, cu_seqlens, inputs.reverse, device, all_full=enter is not None
    )
    dx, ddt = (torch.empty(t.shape, dtype=t.dtype, device=device) for t in (x, dt))
    dz = None if z is None else torch.empty(z.shape, dtype=z.dtype, device=device)
    dB, dC = (_empty_gradient(t) for t in (inputs.B, inputs.C))
    carry = torch.zeros(chunks.sequences, inputs.A.shape[1], d_inner, device=device)
    if d_final is not None:
        _conjugate(carry.copy_(d_final.mT), inputs)

    def sweep(chunk_0: int) -> Segment:
        segment = allocate_segment(inputs, chunk_0, min(config.segment, chunks.total - chunk_0), config)
        if chunks.per_sequence == 1:  # a sweep through all of a sequence carries dh itself
            segment = segment._replace(adjoint=carry[chunk_0 : chunk_0 + segment.dA.shape[0]])
        launch_forward_sweep(inputs, states, dy, dz, segment, chunks, config)
        return segment

    starts = range(0, chunks.total, config.segment)
    swept = None
    if enter is not None:
        for chunk_0 in reversed(starts):
            swept = sweep(chunk_0)
            launch_chunk_scan(
                swept.adjoint.clone(), swept.sigma, inputs, carry.mT, carry, chunks, chunk_0, backwards=True
            )
        d_final = enter(_conjugate(carry, inputs).mT)
        carry = _conjugate(torch.empty_like(carry).copy_(d_final.mT), inputs)
    sums = []
    for chunk_0 in reversed(starts):
        segment = sweep(chunk_0) if swept is None or len(starts) > 1 else swept
        swept = None
        if chunks.per_sequence != 1:
            launch_chunk_scan(
                segment.adjoint, segment.sigma, inputs, carry.mT, carry, chunks, chunk_0, backwards=True
            )
        launch_reverse_sweep(inputs, dy, dx, ddt, segment, chunks, config)
        for rows, total in ((segment.dB, dB), (segment.dC, dC)):
            if rows.ndim == 4:
                launch_sum_rows(inputs, rows, total, chunk_0, chunks)
            else:
                total += _conjugate(rows.sum(0), inputs).mT
        sums.append([sum_over_rows(partial) for partial in (segment.dA, segment.dD, segment.dbias)])
    dA, dD, dbias = (reduce(torch.add, partial) for partial in zip(*sums, strict=True))
    if dz is None:
        dz = x.new_empty(0)
    return dx, ddt, _conjugate(dA, inputs).mT, dB, dC, dD, dz, dbias, _conjugate(carry, inputs).mT


def _conjugate(values: Tensor, inputs: ScanInputs) -> Tensor:
    """Conjugates (..., values, d_inner) in place.

    Kernels differentiate by complex numbers themselves; torch's gradients are the conjugates.
    """
    if inputs.parts == 2:
        values[..., 1::2, :].neg_()
    return values


def _empty_gradient(rows: Tensor) -> Tensor:
    """For the gradient of B or C: zeros in float32 if it is constant in time, else to be filled."""
    if rows.ndim == 2:
        return torch.zeros(rows.shape, device=rows.device, dtype=torch.float32)
    return torch.empty(rows.shape, device=rows.device, dtype=rows.dtype)


def allocate_segment(inputs: ScanInputs, chunk_0: int, count: int, config: ScanConfig) -> Segment:
    """Uninitialised buffers for `count` chunks from the one at index `chunk_0`."""
    _, _, d_inner, d_state = inputs.sizes
    values = inputs.A.shape[1]
    rows, subs = count * config.chunk, config.chunk // config.sub
    several = state_blocks(d_state, inputs.parts)[0] > 1

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device=inputs.x.device, dtype=torch.float32)

    def scratch() -> Tensor | None:
        return empty(rows, d_inner) if several else None

    def partial_rows(tensor: Tensor) -> Tensor:
        if tensor.ndim == 2:
            return empty(count, values, d_inner)
        return empty(inputs.channel_blocks(config.block), count, config.chunk, values)

    return Segment(
        chunk_0=chunk_0,
        r=empty(rows, d_inner),
        sums=(scratch(), scratch(), scratch()),
        dB=partial_rows(inputs.B),
        dC=partial_rows(inputs.C),
        dA=empty(count, values, d_inner),
        dD=empty(count, d_inner),
        dbias=empty(count, d_inner),
        adjoint=empty(count, values, d_inner),
        sigma=empty(count, d_inner),
        end=empty(count, subs, values, d_inner),
        S=empty(count, subs, d_inner),
    )
