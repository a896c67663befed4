"""Launching the scan kernels: how work is cut into programs, and the buffers that pass between kernels."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from bioaudio_kernels.selective_scan.triton_backward import forward_sweep_kernel, reverse_sweep_kernel
from bioaudio_kernels.selective_scan.triton_forward import chunk_scan_kernel, chunk_state_kernel, output_kernel

MAX_STATES = 16
"""States of one channel that a program holds in registers; more take several programs or launches."""


class ScanConfig(NamedTuple):
    """How the kernels cut the work. Integers only, so that it can pass through an operator's schema."""

    chunk: int
    """Steps per chunk; chunks run in parallel."""
    segment: int
    """Chunks per segment; the backward pass takes one segment at a time, which bounds its buffers."""
    sub: int
    """Steps between the stored states of the backward pass."""
    state_block: int
    """Channels per program of `chunk_state_kernel`."""
    state_unroll: int
    """Steps of `chunk_state_kernel` whose loads are issued together."""
    state_warps: int
    output_block: int
    output_unroll: int
    output_warps: int
    forward_block: int
    """Channels per program of `forward_sweep_kernel`; a multiple of 32."""
    forward_unroll: int
    reverse_block: int
    reverse_unroll: int


def choose_config(batch: int, length: int, d_inner: int) -> ScanConfig:
    """A fixed rule from the shape alone: never timed, so that results repeat bit for bit, on any machine.

    Chunks are as long as leaves some 4096 programs of one warp (an H100 holds about 2600 at a time), and 64 to 1024
    steps. A segment of the backward pass has at most 2^27 elements.
    """
    lanes = batch * triton.cdiv(d_inner, 64)
    chunk = 64
    while chunk < 1024 and lanes * triton.cdiv(length, 2 * chunk) >= 4096:
        chunk *= 2
    segment = max(1, 2**27 // (batch * d_inner * chunk))
    return ScanConfig(
        chunk=chunk,
        segment=segment,
        sub=64,
        state_block=64,
        state_unroll=2,
        state_warps=1,
        output_block=64,
        output_unroll=2,
        output_warps=1,
        forward_block=32,
        forward_unroll=1,
        reverse_block=32,
        reverse_unroll=1,
    )


def scan_forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
    dt_softplus: bool,
    config: ScanConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state, and the state that enters each chunk (batch, n_chunks, d_state, d_inner).

    With a single chunk there is nothing to carry: the last result is empty, `initial_state` serves.
    """
    batch, length, d_inner = x.shape
    d_state = A.shape[1]
    n_chunks = triton.cdiv(length, config.chunk)
    y = torch.empty(batch, length, d_inner, dtype=x.dtype, device=x.device)
    final_state = torch.empty(batch, d_state, d_inner, dtype=torch.float32, device=x.device).mT
    states = torch.empty(batch, n_chunks if n_chunks > 1 else 0, d_state, d_inner, device=x.device)
    n_blocks, block = _state_blocks(d_state)
    shared = {"N": d_state, "NB": block, "CHUNK": config.chunk, "SOFTPLUS": dt_softplus}
    if n_chunks > 1:
        sigma = torch.empty(batch, n_chunks, d_inner, device=x.device)
        grid = (triton.cdiv(d_inner, config.state_block) * n_blocks * (n_chunks - 1) * batch,)
        chunk_state_kernel[grid](
            x, x.stride(), dt, dt.stride(), A, A.stride(), B, B.stride(), dt_bias, states, sigma, n_chunks, d_inner,
            **shared, BLOCK_D=config.state_block, UNROLL=config.state_unroll, PACK=_pack(block, d_state, B),
            EVEN_D=d_inner % config.state_block == 0, num_warps=config.state_warps, enable_fp_fusion=True,
        )  # fmt: skip
        _scan_chunks(states, sigma, A, initial_state, None, reverse=False)
        entering, strides = states, states.stride()
    else:
        entering, strides = initial_state, _entering_strides(initial_state)
    scratch = None if n_blocks == 1 else torch.empty(batch, length, d_inner, device=x.device)
    grid = (triton.cdiv(d_inner, config.output_block) * n_chunks * batch,)
    for i in range(n_blocks):
        output_kernel[grid](
            x, x.stride(), dt, dt.stride(), A, A.stride(), B, B.stride(), C, C.stride(), D, z, _strides(z), dt_bias,
            entering, strides, y, final_state, scratch, i, n_chunks, length, d_inner,
            **shared, BLOCK_D=config.output_block, UNROLL=config.output_unroll, PACK=_pack(block, d_state, B, C),
            EVEN_D=d_inner % config.output_block == 0, FIRST=i == 0, LAST=i == n_blocks - 1,
            num_warps=config.output_warps, enable_fp_fusion=True,
        )  # fmt: skip
    return y, final_state, states


class ScanGradients(NamedTuple):
    """Gradients of `scan_forward`, in the order and dtypes of its arguments."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    z: Tensor
    dt_bias: Tensor
    initial_state: Tensor


def scan_backward(
    dy: Tensor,
    d_final: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
    states: Tensor,
    dt_softplus: bool,
    config: ScanConfig,
) -> ScanGradients:
    """All gradients, from those of y and of the final state; `states` is the third result of `scan_forward`.

    Segments of the sequence are taken from the last to the first, so that no buffer grows with the length. The
    gradients of absent arguments (D, z, dt_bias) are meaningless or empty.
    """
    batch, length, d_inner = x.shape
    d_state = A.shape[1]
    n_chunks = triton.cdiv(length, config.chunk)
    n_blocks, block = _state_blocks(d_state)
    segment = min(config.segment, n_chunks)
    if n_chunks > 1:
        entering, strides = states, states.stride()
    else:
        entering, strides = initial_state, _entering_strides(initial_state)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=x.device)

    dx, ddt = empty(batch, length, d_inner, dtype=x.dtype), empty(batch, length, d_inner, dtype=dt.dtype)
    dz = empty(batch, length, d_inner, dtype=z.dtype) if z is not None else empty(0)
    dB, dC = empty(*B.shape, dtype=B.dtype), empty(*C.shape, dtype=C.dtype)
    dA, dD, dbias = (torch.zeros(shape, device=x.device) for shape in ((d_state, d_inner), d_inner, d_inner))
    shared = {"N": d_state, "NB": block, "COUNT": triton.next_power_of_2(block), "CHUNK": config.chunk}
    shared |= {"SUB": config.sub, "SOFTPLUS": dt_softplus, "PACK": _pack(block, d_state, B, C)}
    shared |= {"num_warps": 1, "enable_fp_fusion": True}
    carry = d_final
    for chunk_0 in range((n_chunks - 1) // segment * segment, -1, -segment):
        chunks = min(segment, n_chunks - chunk_0)
        rows, subs = chunks * config.chunk, config.chunk // config.sub
        blocks_f = triton.cdiv(d_inner, config.forward_block)
        blocks_r = triton.cdiv(d_inner, config.reverse_block)
        partial_C, partial_B = empty(blocks_f, batch, rows, d_state), empty(blocks_r, batch, rows, d_state)
        partial_A, adjoint = empty(batch, chunks, d_state, d_inner), empty(batch, chunks, d_state, d_inner)
        partial_D, partial_bias, sigma = (empty(batch, chunks, d_inner) for _ in range(3))
        end, S = empty(batch, chunks, subs, d_state, d_inner), empty(batch, chunks, subs, d_inner)
        r = empty(batch, rows, d_inner)
        sum_y, sum_x, sum_dt = (empty(batch, rows, d_inner) if n_blocks > 1 else None for _ in range(3))
        inputs = (x, x.stride(), dt, dt.stride(), A, A.stride(), B, B.stride(), C, C.stride(), D, z, _strides(z), dt_bias)
        place = (chunk_0, chunks, batch, length, d_inner)
        for i in range(n_blocks):
            forward_sweep_kernel[(blocks_f * chunks * batch,)](
                *inputs, entering, strides, dy, dy.stride(), dz, r, sum_y, partial_C, partial_A, partial_D,
                adjoint, sigma, end, S, i, *place, **shared, FIRST=i == 0, LAST=i == n_blocks - 1,
                BLOCK_D=config.forward_block, UNROLL=config.forward_unroll, EVEN_D=d_inner % config.forward_block == 0,
            )  # fmt: skip
        before = empty(batch, d_state, d_inner).mT
        _scan_chunks(adjoint, sigma, A, carry, before, reverse=True)
        carry = before
        for i in range(n_blocks):
            reverse_sweep_kernel[(blocks_r * chunks * batch,)](
                *inputs, dy, dy.stride(), r, adjoint, end, S, dx, ddt, sum_x, sum_dt, partial_B, partial_A,
                partial_bias, i, *place, **shared, FIRST=i == 0, LAST=i == n_blocks - 1,
                BLOCK_D=config.reverse_block, UNROLL=config.reverse_unroll, EVEN_D=d_inner % config.reverse_block == 0,
            )  # fmt: skip
        t0 = chunk_0 * config.chunk
        t1 = min(t0 + rows, length)
        dB[:, t0:t1] = partial_B[:, :, : t1 - t0].sum(0)
        dC[:, t0:t1] = partial_C[:, :, : t1 - t0].sum(0)
        dA += partial_A.sum((0, 1))
        dD += partial_D.sum((0, 1))
        dbias += partial_bias.sum((0, 1))
    return ScanGradients(dx, ddt, dA.mT, dB, dC, dD, dz, dbias, carry)


def _scan_chunks(
    states: Tensor, sigma: Tensor, A: Tensor, start: Tensor | None, end: Tensor | None, *, reverse: bool
) -> None:
    batch, n_chunks, d_state, d_inner = states.shape
    chunk_scan_kernel[(triton.cdiv(d_inner, 32) * d_state * batch,)](
        states, sigma, A, A.stride(), start, _strides(start), end, _strides(end), n_chunks, d_inner,
        N=d_state, BLOCK_D=32, ROWS=8, REVERSE=reverse, num_warps=1, enable_fp_fusion=True,
    )  # fmt: skip


def _state_blocks(d_state: int) -> tuple[int, int]:
    """How many blocks of states, and how many states in each."""
    n_blocks = triton.cdiv(d_state, MAX_STATES)
    return n_blocks, triton.cdiv(d_state, n_blocks)


def _pack(block: int, d_state: int, *rows: Tensor) -> int:
    """How many values of B and C a 64-bit load can take, given where their rows lie in memory."""
    per_word = 8 // rows[0].element_size()
    if d_state % block or block % per_word:
        return 1
    for tensor in rows:
        aligned = tensor.data_ptr() % 8 == 0 and all(stride % per_word == 0 for stride in tensor.stride()[:2])
        if tensor.element_size() * per_word != 8 or tensor.stride(2) != 1 or not aligned:
            return 1
    return per_word


def _strides(tensor: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0) if tensor is None else tensor.stride()


def _entering_strides(initial_state: Tensor | None) -> tuple[int, int, int, int]:
    """The strides (batch, chunk, state, channel) of an initial state (batch, d_inner, d_state)."""
    if initial_state is None:
        return 0, 0, 0, 0
    batch, channel, state = initial_state.stride()
    return batch, 0, state, channel
