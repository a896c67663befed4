"""How the scan kernels cut their work: fixed rules from shapes, never timed, so that results repeat."""

from __future__ import annotations

from typing import NamedTuple

import triton

MAX_STATES = 16
"""States of one channel that a program holds in registers; more take several programs or launches."""


class ScanConfig(NamedTuple):
    """How the work is cut. Integers only, so that it passes through an operator's schema."""

    chunk: int
    """Steps per chunk; chunks run in parallel. A multiple of `sub` and of `state_unroll`."""
    segment: int
    """Chunks per segment; the backward pass takes one segment at a time, which bounds its buffers."""
    sub: int
    """Steps between states that the backward pass stores; rounding errors of dt's gradient grow with it."""
    state_block: int
    """Channels per program of `chunk_state_kernel`; a multiple of 32 * warps."""
    state_unroll: int
    """Steps whose loads are issued together."""
    state_warps: int
    output_block: int
    """The same three for `output_kernel`."""
    output_unroll: int
    output_warps: int
    forward_block: int
    """Channels per program of `forward_sweep_kernel`, which runs on one warp; a multiple of 32."""
    reverse_block: int
    """The same for `reverse_sweep_kernel`."""


def choose_config(batch: int, length: int, d_inner: int) -> ScanConfig:
    """The configuration for a shape, the same on every machine.

    Chunks are the longest, from 64 to 1024 steps, that leave 4096 programs (an H100 holds some 2100 at a
    time). A segment of the backward pass has at most 2^27 elements.
    """
    block = 64 if d_inner > 32 else 32
    programs_per_chunk = batch * triton.cdiv(d_inner, block)
    chunk = 64
    while chunk < 1024 and programs_per_chunk * triton.cdiv(length, 2 * chunk) >= 4096:
        chunk *= 2
    return ScanConfig(
        chunk=chunk,
        segment=max(1, 2**27 // (batch * d_inner * chunk)),
        sub=64,
        state_block=block,
        state_unroll=4,
        state_warps=1,
        output_block=block,
        output_unroll=2 if length > 1 else 1,
        output_warps=1,
        forward_block=block,
        reverse_block=block,
    )


def state_blocks(d_state: int) -> tuple[int, int]:
    """How many blocks of states, and how many states in each."""
    n_blocks = triton.cdiv(d_state, MAX_STATES)
    return n_blocks, triton.cdiv(d_state, n_blocks)
