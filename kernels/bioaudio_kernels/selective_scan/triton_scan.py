"""The selective scan and its gradient as sequences of kernels; `triton_op` makes operators of them."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from bioaudio_kernels.selective_scan.triton_config import ScanConfig, state_blocks
from bioaudio_kernels.selective_scan.triton_launch import (
    ScanInputs,
    Segment,
    launch_chunk_scan,
    launch_chunk_states,
    launch_forward_sweep,
    launch_outputs,
    launch_reverse_sweep,
)


def scan_forward(inputs: ScanInputs, config: ScanConfig) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state, and the states that enter the chunks (batch, n_chunks, d_state, d_inner).

    With a single chunk there is nothing to hand on: the last result is empty, `initial_state` serves.
    """
    batch, length, d_inner, d_state = inputs.sizes
    device = inputs.x.device
    n_chunks = triton.cdiv(length, config.chunk)
    y = torch.empty(batch, length, d_inner, dtype=inputs.x.dtype, device=device)
    # Channels are neighbours in memory, as in every kernel; the view has the public order.
    final_state = torch.empty(batch, d_state, d_inner, device=device, dtype=torch.float32).mT
    shape = (batch, n_chunks if n_chunks > 1 else 0, d_state, d_inner)
    states = torch.empty(shape, device=device, dtype=torch.float32)
    if n_chunks > 1:
        sigma = torch.empty(batch, n_chunks, d_inner, device=device, dtype=torch.float32)
        launch_chunk_states(inputs, states, sigma, config)
        launch_chunk_scan(states, sigma, inputs.A, inputs.initial_state, None, reverse=False)
    sums = None if state_blocks(d_state)[0] == 1 else torch.empty_like(y, dtype=torch.float32)
    launch_outputs(inputs, states, y, final_state, sums, config)
    return y, final_state, states


def scan_backward(
    inputs: ScanInputs, states: Tensor, dy: Tensor, d_final: Tensor | None, config: ScanConfig
) -> tuple[Tensor, ...]:
    """Gradients of the nine tensors of `inputs`, from those of y and of the final state.

    Segments of the sequence are taken from the last to the first, so that no buffer grows with the length;
    the carry is the gradient at the state that enters the segment. dx, ddt, dB, dC and dz have the dtypes of
    their tensors, the others float32. Those of absent tensors mean nothing.
    """
    batch, length, d_inner, d_state = inputs.sizes
    x, dt, z = inputs.x, inputs.dt, inputs.z
    dx, ddt = (torch.empty(t.shape, dtype=t.dtype, device=x.device) for t in (x, dt))
    dz = torch.empty(
        x.shape if z is not None else (0,), dtype=x.dtype if z is None else z.dtype, device=x.device
    )
    dB, dC = (torch.empty(t.shape, dtype=t.dtype, device=x.device) for t in (inputs.B, inputs.C))
    dA = torch.zeros(d_state, d_inner, device=x.device)
    dD, dbias = (torch.zeros(d_inner, device=x.device) for _ in range(2))
    n_chunks = triton.cdiv(length, config.chunk)
    carry = d_final
    for chunk_0 in reversed(range(0, n_chunks, config.segment)):
        segment = allocate_segment(inputs, chunk_0, min(config.segment, n_chunks - chunk_0), config)
        launch_forward_sweep(inputs, states, dy, dz, segment, config)
        before = torch.empty(batch, d_state, d_inner, device=x.device).mT
        launch_chunk_scan(segment.adjoint, segment.sigma, inputs.A, carry, before, reverse=True)
        launch_reverse_sweep(inputs, dy, dx, ddt, segment, config)
        carry = before
        t = slice(chunk_0 * config.chunk, min(chunk_0 * config.chunk + segment.r.shape[1], length))
        steps = t.stop - t.start
        dB[:, t] = segment.dB[:, :, :steps].sum(0)
        dC[:, t] = segment.dC[:, :, :steps].sum(0)
        dA += segment.dA.sum((0, 1))
        dD += segment.dD.sum((0, 1))
        dbias += segment.dbias.sum((0, 1))
    assert carry is not None
    return dx, ddt, dA.mT, dB, dC, dD, dz, dbias, carry


def allocate_segment(inputs: ScanInputs, chunk_0: int, chunks: int, config: ScanConfig) -> Segment:
    """Uninitialised buffers for `chunks` chunks from the one at index `chunk_0`."""
    batch, _, d_inner, d_state = inputs.sizes
    rows, subs = chunks * config.chunk, config.chunk // config.sub
    several = state_blocks(d_state)[0] > 1

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device=inputs.x.device, dtype=torch.float32)

    def scratch() -> Tensor | None:
        return empty(batch, rows, d_inner) if several else None

    return Segment(
        chunk_0=chunk_0,
        r=empty(batch, rows, d_inner),
        sums=(scratch(), scratch(), scratch()),
        dB=empty(triton.cdiv(d_inner, config.reverse_block), batch, rows, d_state),
        dC=empty(triton.cdiv(d_inner, config.forward_block), batch, rows, d_state),
        dA=empty(batch, chunks, d_state, d_inner),
        dD=empty(batch, chunks, d_inner),
        dbias=empty(batch, chunks, d_inner),
        adjoint=empty(batch, chunks, d_state, d_inner),
        sigma=empty(batch, chunks, d_inner),
        end=empty(batch, chunks, subs, d_state, d_inner),
        S=empty(batch, chunks, subs, d_inner),
    )
