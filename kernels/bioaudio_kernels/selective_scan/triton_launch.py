"""One function per kernel: grid, strides and compile-time constants from tensors and a `ScanConfig`."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
from torch import Tensor

from bioaudio_kernels.selective_scan.triton_config import ScanConfig, state_blocks
from bioaudio_kernels.selective_scan.triton_forward import (
    chunk_scan_kernel,
    chunk_state_kernel,
    output_kernel,
)
from bioaudio_kernels.selective_scan.triton_forward_sweep import forward_sweep_kernel
from bioaudio_kernels.selective_scan.triton_reverse_sweep import reverse_sweep_kernel


class ScanInputs(NamedTuple):
    """The arguments of `selective_scan`, shapes as there."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    dt_bias: Tensor | None
    initial_state: Tensor | None
    dt_softplus: bool

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """batch, length, d_inner, d_state"""
        batch, length, d_inner = self.x.shape
        return batch, length, d_inner, self.A.shape[1]


def launch_chunk_states(inputs: ScanInputs, states: Tensor, sigma: Tensor, config: ScanConfig) -> None:
    """Fill states (batch, n_chunks, d_state, d_inner) and sigma (batch, n_chunks, d_inner) but the last."""
    batch, _, d_inner, d_state = inputs.sizes
    n_chunks = states.shape[1]
    n_blocks, _ = state_blocks(d_state)
    grid = (triton.cdiv(d_inner, config.state_block) * n_blocks * (n_chunks - 1) * batch,)
    chunk_state_kernel[grid](
        *_x_to_B(inputs), inputs.dt_bias, states, sigma, n_chunks, config.chunk, d_inner,
        **_constants(inputs, config, config.state_block, inputs.B),
        UNROLL=config.state_unroll, num_warps=config.state_warps,
    )  # fmt: skip


def launch_chunk_scan(
    states: Tensor, sigma: Tensor, A: Tensor, start: Tensor | None, end: Tensor | None, *, reverse: bool
) -> None:
    """Turn each chunk's own state, in place, into the one that enters it; see `chunk_scan_kernel`."""
    batch, n_chunks, d_state, d_inner = states.shape
    chunk_scan_kernel[(triton.cdiv(d_inner, 32) * d_state * batch,)](
        states, sigma, A, A.stride(), start, _strides(start), end, _strides(end), n_chunks, d_inner,
        N=d_state, BLOCK_D=32, ROWS=16, REVERSE=reverse, num_warps=1, enable_fp_fusion=True,
    )  # fmt: skip


def launch_outputs(
    inputs: ScanInputs,
    states: Tensor,
    y: Tensor,
    final_state: Tensor,
    sums: Tensor | None,
    config: ScanConfig,
) -> None:
    """Fill y and final_state. More than one block of states needs `sums`, fp32 and shaped like y."""
    batch, length, d_inner, d_state = inputs.sizes
    n_chunks = triton.cdiv(length, config.chunk)
    constants = _constants(inputs, config, config.output_block, inputs.B, inputs.C)
    n_blocks, _ = state_blocks(d_state)
    for i in range(n_blocks):
        output_kernel[(triton.cdiv(d_inner, config.output_block) * n_chunks * batch,)](
            *_x_to_bias(inputs), *_entering(inputs, states), y, final_state, sums,
            i, n_chunks, config.chunk, length, d_inner,
            **constants, UNROLL=config.output_unroll, FIRST=i == 0, LAST=i == n_blocks - 1,
            num_warps=config.output_warps,
        )  # fmt: skip


class Segment(NamedTuple):
    """The buffers of the backward pass over chunks [chunk_0, chunk_0 + chunks), float32; `rows` steps in all.

    What sums over channels has one row per channel block, what sums over time one per chunk.
    """

    chunk_0: int
    r: Tensor
    """(batch, rows, d_inner): what the forward sweep hands on, see `triton_forward_sweep`."""
    sums: tuple[Tensor | None, Tensor | None, Tensor | None]
    """Scratch (batch, rows, d_inner) for y, dx and ddt, needed by more than one block of states."""
    dB: Tensor
    """(channel blocks, batch, rows, d_state)"""
    dC: Tensor
    """(channel blocks, batch, rows, d_state)"""
    dA: Tensor
    """(batch, chunks, d_state, d_inner)"""
    dD: Tensor
    """(batch, chunks, d_inner)"""
    dbias: Tensor
    """(batch, chunks, d_inner)"""
    adjoint: Tensor
    """(batch, chunks, d_state, d_inner): gradient at the state before each chunk, from that chunk alone."""
    sigma: Tensor
    """(batch, chunks, d_inner): sums of dt."""
    end: Tensor
    """(batch, chunks, chunk / sub, d_state, d_inner): the state after every `sub` steps."""
    S: Tensor
    """(batch, chunks, chunk / sub, d_inner): sums of dt over them."""


def launch_forward_sweep(
    inputs: ScanInputs, states: Tensor, dy: Tensor, dz: Tensor, segment: Segment, config: ScanConfig
) -> None:
    """Fill dz, and of the segment r, dC, dA's first part, dD, adjoint, sigma, end and S."""
    s = segment
    _launch_sweep(
        forward_sweep_kernel, config.forward_block, inputs, dy, config, s,
        *_x_to_bias(inputs), *_entering(inputs, states), dy, dy.stride(),
        dz, s.r, s.sums[0], s.dC, s.dA, s.dD, s.adjoint, s.sigma, s.end, s.S,
    )  # fmt: skip


def launch_reverse_sweep(
    inputs: ScanInputs, dy: Tensor, dx: Tensor, ddt: Tensor, segment: Segment, config: ScanConfig
) -> None:
    """Fill dx and ddt, and of the segment dB, the rest of dA, and dbias; `adjoint` must have been scanned."""
    s = segment
    _launch_sweep(
        reverse_sweep_kernel, config.reverse_block, inputs, dy, config, s,
        *_x_to_bias(inputs), dy, dy.stride(),
        s.r, s.adjoint, s.end, s.S, dx, ddt, s.sums[1], s.sums[2], s.dB, s.dA, s.dbias,
    )  # fmt: skip


def _launch_sweep(
    kernel: Any,
    block: int,
    inputs: ScanInputs,
    dy: Tensor,
    config: ScanConfig,
    segment: Segment,
    *arguments: Any,
) -> None:
    batch, length, d_inner, d_state = inputs.sizes
    chunks = segment.dA.shape[1]
    n_blocks, states = state_blocks(d_state)
    constants = _constants(inputs, config, block, inputs.B, inputs.C)
    constants |= {"COUNT": triton.next_power_of_2(states), "SUB": config.sub, "num_warps": 1}
    constants["WIDE"] |= _is_wide(config, dy)
    for i in range(n_blocks):
        kernel[(triton.cdiv(d_inner, block) * chunks * batch,)](
            *arguments, i, segment.chunk_0, chunks, config.chunk, batch, length, d_inner,
            **constants, FIRST=i == 0, LAST=i == n_blocks - 1,
        )  # fmt: skip


def _x_to_B(inputs: ScanInputs) -> tuple[Any, ...]:
    with_strides = ((tensor, tensor.stride()) for tensor in (inputs.x, inputs.dt, inputs.A, inputs.B))
    return tuple(argument for pair in with_strides for argument in pair)


def _x_to_bias(inputs: ScanInputs) -> tuple[Any, ...]:
    C, z = inputs.C, inputs.z
    return *_x_to_B(inputs), C, C.stride(), inputs.D, z, _strides(z), inputs.dt_bias


def _entering(inputs: ScanInputs, states: Tensor) -> tuple[Tensor | None, tuple[int, ...]]:
    """The states that enter the chunks and their strides (batch, chunk, state, channel).

    A single chunk has none of its own: it starts from the initial state, (batch, d_inner, d_state).
    """
    if states.numel():
        return states, states.stride()
    batch, channel, state = _strides(inputs.initial_state)
    return inputs.initial_state, (batch, 0, state, channel)


def _constants(inputs: ScanInputs, config: ScanConfig, block: int, *rows: Tensor) -> dict[str, Any]:
    """Compile-time arguments of every kernel over time; `rows` are those of B and C that it reads."""
    _, _, d_inner, d_state = inputs.sizes
    _, states = state_blocks(d_state)
    return {
        "N": d_state,
        "NB": states,
        "BLOCK_D": block,
        "PACK": _pack(states, d_state, rows),
        "SOFTPLUS": inputs.dt_softplus,
        "EVEN_D": d_inner % block == 0,
        "WIDE": _is_wide(config, inputs.x, inputs.dt, inputs.B, inputs.C, inputs.z),
        "enable_fp_fusion": True,
    }


def _is_wide(config: ScanConfig, *tensors: Tensor | None) -> bool:
    """Whether offsets inside one chunk can pass 2^31; those of chunks and batches are always 64 bits wide."""
    present = [tensor for tensor in tensors if tensor is not None]
    return config.chunk * max(max(tensor.stride(1), tensor.shape[2]) for tensor in present) >= 2**31


def _pack(states: int, d_state: int, rows: tuple[Tensor, ...]) -> int:
    """How many values of B or C a 64-bit load can take, given how their rows lie in memory."""
    per_word = 8 // rows[0].element_size()
    if d_state % states or states % per_word:
        return 1
    for tensor in rows:
        aligned = tensor.data_ptr() % 8 == 0 and all(stride % per_word == 0 for stride in tensor.stride()[:2])
        if tensor.element_size() * per_word != 8 or tensor.stride(2) != 1 or not aligned:
            return 1
    return per_word


def _strides(tensor: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0) if tensor is None else tensor.stride()
