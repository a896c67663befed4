"""How the scan kernels cut their work: fixed rules from shapes, never timed, so that results repeat."""

from __future__ import annotations

from typing import NamedTuple

from bioaudio_kernels.integers import ceil_div

MAX_VALUES = 16
"""Values of one channel's states (two for a complex one) that a program holds in registers; more take several
programs or launches."""


class ScanConfig(NamedTuple):
    """How the work is cut. Integers only, so that it passes through an operator's schema."""

    chunk: int
    """Steps per chunk; chunks run in parallel. A multiple of `sub` and of `state_unroll`."""
    segment: int
    """Chunks per segment; the backward pass takes one segment at a time, which bounds its buffers."""
    sub: int
    """Steps between states that the backward pass stores; rounding errors of dt's gradient grow with it."""
    block: int
    """Channels of a program, which is one warp; a multiple of 32."""
    state_unroll: int
    """Steps whose loads `chunk_state_kernel` issues together."""
    output_unroll: int
    """The same for `output_kernel`."""
    output_warps: int
    """Over which `output_kernel` spreads its channels."""


def choose_config(batch: int, length: int, d_inner: int, group_size: int, *, plain: bool) -> ScanConfig:
    """The configuration for a shape, the same on every machine.

    An H100 holds 2112 programs of the forward pass at a time, and 1056 of the backward pass. Where the
    channels fill it, a short sequence is one chunk, whose states need not be handed on. Elsewhere chunks are
    the longest, from 64 to 512 steps, that leave 2048 programs. A segment of the backward pass has at most
    2^27 elements. What is not `plain`, complex states or maps that are constant in time, takes more registers
    for each channel.
    """
    block = 64 if group_size > 32 and plain else 32
    programs_per_chunk = batch * (d_inner // group_size) * ceil_div(group_size, block)
    chunk = 64
    if programs_per_chunk >= 1024 and length <= 2048:
        chunk *= ceil_div(length, chunk)
    else:
        while chunk < 512 and programs_per_chunk * ceil_div(length, 2 * chunk) >= 2048:
            chunk *= 2
    programs = programs_per_chunk * ceil_div(length, chunk)
    return ScanConfig(
        chunk=chunk,
        segment=max(1, 2**27 // (d_inner * chunk)),
        sub=64,
        block=block,
        state_unroll=2,
        output_unroll=2 if length > 1 else 1,
        output_warps=2 if block == 64 and programs < 2048 else 1,
    )


def state_blocks(d_state: int, parts: int) -> tuple[int, int]:
    """How many blocks of states, and how many states in each; a state has 1 or 2 parts."""
    n_blocks = ceil_div(d_state * parts, MAX_VALUES)
    return n_blocks, ceil_div(d_state, n_blocks)
