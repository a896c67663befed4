"""The selective scan and its gradient as sequences of kernels; `triton_op` makes operators of them."""

from __future__ import annotations

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


def scan_forward(
    inputs: ScanInputs, cu_seqlens: Tensor | None, config: ScanConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state (sequences, d_inner, values), and the states that enter the chunks.

    Those are (chunks, values, d_inner), where values is d_state * parts.
    """
    batch, length, d_inner, d_state = inputs.sizes
    device = inputs.x.device
    chunks = cut_into_chunks(batch, length, config.chunk, cu_seqlens, inputs.reverse, device)
    y = torch.empty(batch, length, d_inner, dtype=inputs.x.dtype, device=device)
    # Channels are neighbours in memory, as in every kernel; the view has the public order.
    values = inputs.A.shape[1]
    final_state = torch.empty(chunks.sequences, values, d_inner, device=device, dtype=torch.float32)
    states = torch.empty(chunks.total, values, d_inner, device=device, dtype=torch.float32)
    sigma = torch.empty(chunks.total, d_inner, device=device, dtype=torch.float32)
    if chunks.per_sequence != 1:
        launch_chunk_states(inputs, states, sigma, chunks, config)
    launch_chunk_scan(states, sigma, inputs, inputs.initial_state, None, chunks, backwards=False)
    several = state_blocks(d_state, inputs.parts)[0] > 1
    sums = torch.empty_like(y, dtype=torch.float32) if several else None
    launch_outputs(inputs, states, y, final_state, sums, chunks, config)
    return y, final_state.mT, states


def scan_backward(
    inputs: ScanInputs,
    cu_seqlens: Tensor | None,
    states: Tensor,
    dy: Tensor,
    d_final: Tensor | None,
    config: ScanConfig,
) -> tuple[Tensor, ...]:
    """Gradients of the nine tensors of `inputs`, from those of y and of the final state.

    Segments of the chunks are taken from the last to the first, so that no buffer grows with the length; the
    carry is the gradient at the state that enters the segment. dx, ddt, dB, dC and dz have the dtypes of
    their tensors, the others float32. Those of absent tensors mean nothing.
    """
    batch, length, d_inner, _ = inputs.sizes
    x, dt, z = inputs.x, inputs.dt, inputs.z
    device = x.device
    chunks = cut_into_chunks(batch, length, config.chunk, cu_seqlens, inputs.reverse, device)
    dx, ddt = (torch.empty(t.shape, dtype=t.dtype, device=device) for t in (x, dt))
    dz = None if z is None else torch.empty(z.shape, dtype=z.dtype, device=device)
    dB, dC = (_empty_gradient(t) for t in (inputs.B, inputs.C))
    carry_shape = chunks.sequences, inputs.A.shape[1], d_inner
    if d_final is None:
        carry = torch.zeros(carry_shape, device=device)
    else:
        carry = _conjugate(torch.empty(carry_shape, device=device).copy_(d_final.mT), inputs)
    sums = []
    for chunk_0 in reversed(range(0, chunks.total, config.segment)):
        segment = allocate_segment(inputs, chunk_0, min(config.segment, chunks.total - chunk_0), config)
        if chunks.per_sequence == 1:  # a sweep through all of a sequence carries dh itself
            segment = segment._replace(adjoint=carry[chunk_0 : chunk_0 + segment.dA.shape[0]])
        launch_forward_sweep(inputs, states, dy, dz, segment, chunks, config)
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
        sums.append([partial.sum(0) for partial in (segment.dA, segment.dD, segment.dbias)])
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
