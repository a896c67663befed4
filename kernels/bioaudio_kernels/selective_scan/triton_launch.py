"""One function per kernel: grid, strides and compile-time constants from tensors and a `ScanConfig`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor

from bioaudio_kernels.integers import ceil_div, next_power_of_2
from bioaudio_kernels.selective_scan.triton_chunk_table import Chunks
from bioaudio_kernels.selective_scan.triton_chunks import chunk_scan_kernel, sum_rows_kernel
from bioaudio_kernels.selective_scan.triton_config import ScanConfig, state_blocks
from bioaudio_kernels.selective_scan.triton_forward_sweep import forward_sweep_kernel
from bioaudio_kernels.selective_scan.triton_outputs import output_kernel
from bioaudio_kernels.selective_scan.triton_reverse_sweep import reverse_sweep_kernel
from bioaudio_kernels.selective_scan.triton_states import chunk_state_kernel


@dataclass(frozen=True)
class ScanInputs:
    """What the kernels read. Complex numbers are pairs of neighbouring values (real, imaginary).

    What several kernels need to know of the tensors is worked out once: Python has to be faster than the GPU.
    """

    x: Tensor
    """(batch, length, d_inner), as are dt and z."""
    dt: Tensor
    A: Tensor
    """(d_inner, d_state * parts)"""
    B: Tensor
    """(batch, length, groups, d_state * parts), or constant in time (d_inner, d_state * parts); C likewise.
    One of the two may have one group where the other has more."""
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    dt_bias: Tensor | None
    initial_state: Tensor | None
    """(sequences, d_inner, d_state * parts)"""
    parts: int
    """1 if states are real, 2 if complex."""
    dt_softplus: bool
    reverse: bool

    @cached_property
    def sizes(self) -> tuple[int, int, int, int]:
        """batch, length, d_inner, d_state"""
        batch, length, d_inner = self.x.shape
        return batch, length, d_inner, self.A.shape[1] // self.parts

    @cached_property
    def group_size(self) -> int:
        """Channels that share both their B and their C."""
        groups = [tensor.shape[2] for tensor in (self.B, self.C) if tensor.ndim == 4]
        return self.x.shape[2] // max(groups, default=1)

    def channel_blocks(self, block: int) -> int:
        return self.x.shape[2] // self.group_size * ceil_div(self.group_size, block)

    @cached_property
    def x_to_B(self) -> tuple[Any, ...]:
        """The first arguments of every kernel over time."""
        x, dt, A, B = self.x, self.dt, self.A, self.B
        return x, x.stride(), dt, dt.stride(), A, A.stride(), B, _row_strides(B)

    @cached_property
    def x_to_bias(self) -> tuple[Any, ...]:
        """The same for kernels that read C too."""
        return *self.x_to_B, self.C, _row_strides(self.C), self.D, self.z, _strides(self.z), self.dt_bias

    @cached_property
    def longest_stride(self) -> int:
        """Of time, in any of the tensors."""
        return max(_time_stride(t) for t in (self.x, self.dt, self.B, self.C, self.z))

    @cached_property
    def pack_of_B(self) -> int:
        """How many values of B a 64-bit load can take; `pack_of_maps` for B and C alike."""
        return _pack(self, self.B)

    @cached_property
    def pack_of_maps(self) -> int:
        return _pack(self, self.B, self.C)


def launch_chunk_states(
    inputs: ScanInputs, states: Tensor, sigma: Tensor, chunks: Chunks, config: ScanConfig
) -> None:
    """Fill states (chunks, d_state * parts, d_inner) and sigma (chunks, d_inner), but a sequence's last."""
    _, length, d_inner, d_state = inputs.sizes
    n_blocks, _ = state_blocks(d_state, inputs.parts)
    constants = _constants(inputs, config, inputs.pack_of_B)
    chunk_state_kernel[(inputs.channel_blocks(config.block) * n_blocks * chunks.total,)](
        *inputs.x_to_B, inputs.dt_bias, states, sigma, chunks.table, chunks.per_sequence, chunks.steps,
        length, inputs.group_size, d_inner,
        **constants, UNROLL=config.state_unroll,
    )  # fmt: skip


def launch_chunk_scan(
    states: Tensor, sigma: Tensor, inputs: ScanInputs, start: Tensor | None, end: Tensor | None,
    chunks: Chunks, chunk_0: int = 0, *, backwards: bool,
) -> None:  # fmt: skip
    """Turn each chunk's own state, in place, into the one that enters it; see `chunk_scan_kernel`.

    `start` is (sequences, d_inner, d_state * parts); `end` (sequences, d_state * parts, d_inner).
    """
    _, _, d_inner, d_state = inputs.sizes
    chunk_scan_kernel[(ceil_div(d_inner, 32) * d_state * chunks.sequences,)](
        states, sigma, inputs.A, inputs.A.stride(), start, _strides(start), end, chunks.first,
        chunks.per_sequence, chunk_0, states.shape[0], d_inner,
        N=d_state, PARTS=inputs.parts, BLOCK_D=32, ROWS=16 // inputs.parts, BACKWARDS=backwards,
        num_warps=1, enable_fp_fusion=True,
    )  # fmt: skip


def launch_outputs(
    inputs: ScanInputs, states: Tensor, y: Tensor, final_state: Tensor, sums: Tensor | None,
    chunks: Chunks, config: ScanConfig,
) -> None:  # fmt: skip
    """Fill y and final_state (sequences, d_state * parts, d_inner).

    More than one block of states needs `sums`, fp32 and shaped like y.
    """
    _, length, d_inner, d_state = inputs.sizes
    constants = _constants(inputs, config, inputs.pack_of_maps)
    constants["num_warps"] = config.output_warps
    if config.block == 64:
        constants["maxnreg"] = 128  # 16 warps fit on a multiprocessor; the assembler left alone takes 140
    n_blocks, _ = state_blocks(d_state, inputs.parts)
    for i in range(n_blocks):
        output_kernel[(inputs.channel_blocks(config.block) * chunks.total,)](
            *inputs.x_to_bias, states, y, y.stride(), final_state, sums,
            chunks.table, i, chunks.per_sequence, chunks.steps, length, inputs.group_size, d_inner,
            **constants, UNROLL=config.output_unroll, FIRST=i == 0, LAST=i == n_blocks - 1,
        )  # fmt: skip


class Segment(NamedTuple):
    """The buffers of the backward pass over chunks [chunk_0, chunk_0 + chunks), float32; `rows` steps in all.

    What sums over channels has one row per channel block, what sums over time one per chunk. `values` is
    d_state * parts.
    """

    chunk_0: int
    r: Tensor
    """(rows, d_inner): what the forward sweep hands on, see `triton_forward_sweep`."""
    sums: tuple[Tensor | None, Tensor | None, Tensor | None]
    """Scratch (rows, d_inner) for y, dx and ddt, needed by more than one block of states."""
    dB: Tensor
    """(channel blocks, chunks, chunk, values), or for a constant B (chunks, values, d_inner)"""
    dC: Tensor
    """The same for C."""
    dA: Tensor
    """(chunks, values, d_inner)"""
    dD: Tensor
    """(chunks, d_inner)"""
    dbias: Tensor
    """(chunks, d_inner)"""
    adjoint: Tensor
    """(chunks, values, d_inner): gradient at the state before each chunk, from that chunk alone; after the
    scan over chunks, at the state that leaves it. Sequences of a single chunk start from the latter."""
    sigma: Tensor
    """(chunks, d_inner): sums of dt."""
    end: Tensor
    """(chunks, chunk / sub, values, d_inner): the state after every `sub` steps."""
    S: Tensor
    """(chunks, chunk / sub, d_inner): sums of dt over them."""


def launch_forward_sweep(
    inputs: ScanInputs, states: Tensor, dy: Tensor, dz: Tensor | None, segment: Segment, chunks: Chunks,
    config: ScanConfig,
) -> None:  # fmt: skip
    """Fill dz, and of the segment r, dC, dA's first part, dD, adjoint, sigma, end and S."""
    s = segment
    _launch_sweep(
        forward_sweep_kernel, inputs, dy, config, s, chunks,
        *inputs.x_to_bias, states, dy, dy.stride(), dz, _strides(dz),
        s.r, s.sums[0], s.dC, s.dA, s.dD, s.adjoint, s.sigma, s.end, s.S,
    )  # fmt: skip


def launch_reverse_sweep(
    inputs: ScanInputs, dy: Tensor, dx: Tensor, ddt: Tensor, segment: Segment, chunks: Chunks,
    config: ScanConfig,
) -> None:  # fmt: skip
    """Fill dx and ddt, and of the segment dB, the rest of dA, and dbias; `adjoint` must have been scanned."""
    s = segment
    _launch_sweep(
        reverse_sweep_kernel, inputs, dy, config, s, chunks,
        *inputs.x_to_bias, dy, dy.stride(), s.r, s.adjoint, s.end, s.S,
        dx, dx.stride(), ddt, ddt.stride(), s.sums[1], s.sums[2], s.dB, s.dA, s.dbias,
    )  # fmt: skip


def _launch_sweep(
    kernel: Any, inputs: ScanInputs, dy: Tensor, config: ScanConfig, segment: Segment, chunks: Chunks,
    *arguments: Any,
) -> None:  # fmt: skip
    _, length, d_inner, d_state = inputs.sizes
    n_blocks, states = state_blocks(d_state, inputs.parts)
    constants = _constants(inputs, config, inputs.pack_of_maps)
    constants |= {"COUNT": next_power_of_2(states * inputs.parts), "SUB": config.sub}
    constants["ADJOINT"] = chunks.per_sequence != 1
    constants["WIDE"] |= _is_wide(chunks.steps, _time_stride(dy))
    count = segment.dA.shape[0]
    for i in range(n_blocks):
        kernel[(inputs.channel_blocks(config.block) * count,)](
            *arguments, chunks.table, i, segment.chunk_0, count, chunks.per_sequence, chunks.steps, length,
            inputs.group_size, d_inner, **constants, FIRST=i == 0, LAST=i == n_blocks - 1,
        )  # fmt: skip


def launch_sum_rows(inputs: ScanInputs, rows: Tensor, out: Tensor, chunk_0: int, chunks: Chunks) -> None:
    """Fill the steps of `out` (batch, length, groups, values) that lie in the chunks of `rows`."""
    blocks, count, steps, values = rows.shape
    groups = out.shape[2]
    columns = next_power_of_2(values)
    tile = max(1, min(next_power_of_2(steps), 2048 // columns))
    sum_rows_kernel[(ceil_div(steps, tile) * count, groups)](
        rows, out, out.stride(), chunks.table, chunk_0, count, chunks.per_sequence, steps, inputs.x.shape[1],
        blocks // groups, WIDTH=values, COLUMNS=columns, PARTS=inputs.parts, ROWS=tile,
        REVERSE=inputs.reverse, num_warps=4,
    )  # fmt: skip


def _row_strides(rows: Tensor) -> tuple[int, ...]:
    """Strides of B or C; one group is the same for all channels."""
    if rows.ndim == 4 and rows.shape[2] == 1:
        return *rows.stride()[:2], 0, rows.stride(3)
    return rows.stride()


def _constants(inputs: ScanInputs, config: ScanConfig, pack: int) -> dict[str, Any]:
    """Compile-time arguments of every kernel over time; `pack` is for those of B and C that it reads."""
    _, _, _, d_state = inputs.sizes
    _, states = state_blocks(d_state, inputs.parts)
    return {
        "N": d_state,
        "NB": states,
        "PARTS": inputs.parts,
        "BLOCK_D": config.block,
        "PACK": pack,
        "SOFTPLUS": inputs.dt_softplus,
        "REVERSE": inputs.reverse,
        "EVEN_D": inputs.group_size % config.block == 0,
        "WIDE": _is_wide(config.chunk, inputs.longest_stride),
        "num_warps": 1,
        "enable_fp_fusion": True,
    }


def _is_wide(steps: int, stride: int) -> bool:
    """Whether offsets inside one chunk can pass 2^31; those of chunks and batches are always 64 bits wide."""
    return steps * stride >= 2**31


def _time_stride(tensor: Tensor | None) -> int:
    """At least the width of a row, for buffers of that shape; 0 if absent or constant in time."""
    return 0 if tensor is None or tensor.ndim == 2 else max(tensor.stride(1), tensor.shape[2])


def _pack(inputs: ScanInputs, *maps: Tensor) -> int:
    """How many values of the maps, B or C, a 64-bit load can take, given how their rows lie in memory."""
    tensors = [tensor for tensor in maps if tensor.ndim == 4]
    if not tensors:
        return 1
    row = inputs.A.shape[1]
    values = state_blocks(inputs.sizes[3], inputs.parts)[1] * inputs.parts  # that a program reads of a row
    per_word = 8 // tensors[0].element_size()
    if row % values or values % per_word:
        return 1
    for tensor in tensors:
        aligned = tensor.data_ptr() % 8 == 0 and all(stride % per_word == 0 for stride in tensor.stride()[:3])
        if tensor.element_size() * per_word != 8 or tensor.stride(3) != 1 or not aligned:
            return 1
    return per_word


def _strides(tensor: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0) if tensor is None else tensor.stride()
