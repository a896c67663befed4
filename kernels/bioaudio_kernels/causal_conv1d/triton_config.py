"""How the convolution's kernels cut their work: fixed rules, never timed, so that results repeat."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from bioaudio_kernels.integers import ceil_div

MAX_WIDTH = 16
"""Taps that the kernels hold in registers."""
PROGRAMS = 6144
"""Of a forward pass: an H100 holds 1600 to 2600 at a time; some waves of them, that the last one be short."""
BACKWARD_PROGRAMS = {2: 1056, 4: 2112}
"""That an H100 holds at a time, by the size of an element, with filters of up to 4 taps: a step takes 255 or
104 registers."""


class ConvConfig(NamedTuple):
    """How the work is cut. A program is one warp."""

    chunk: int
    """Steps of a program."""
    block: int
    """Channels of a program, a multiple of 32: 256 bytes of a row, fewer for wide filters."""
    unroll: int
    """Steps whose inputs are loaded together, while those before them are computed."""


def choose_config(
    batch: int, length: int, channels: int, width: int, element_size: int, *, backward: bool = False
) -> ConvConfig:
    """The configuration for a shape, the same on every machine.

    Forward, chunks are the longest, from 64 to 512 steps, that leave `PROGRAMS` programs. Backward, where a
    program also starts slowly and leaves sums to be added, those of the least waves times steps.
    """
    block = 256 // element_size if width <= 6 else 64 if width <= 12 else 32
    unroll = 8 if width <= 4 and element_size == 2 else 4 if width <= 8 else 2
    programs_per_chunk = batch * ceil_div(channels, block)
    if backward:

        def cost(chunk: int) -> int:
            programs = programs_per_chunk * ceil_div(length, chunk)
            return ceil_div(programs, BACKWARD_PROGRAMS[element_size]) * (chunk + 8)

        return ConvConfig(chunk=min((64, 128, 256, 512, 1024), key=cost), block=block, unroll=unroll)
    chunk = 64
    while chunk < 512 and programs_per_chunk * ceil_div(length, 2 * chunk) >= PROGRAMS:
        chunk *= 2
    return ConvConfig(chunk=chunk, block=block, unroll=unroll)


def pack_of(config: ConvConfig, *tensors: Tensor) -> int:
    """2 if all tensors (batch, length, channels) can be read as words of two channels, else 1."""
    for tensor in tensors:
        batch_stride, length_stride, channel_stride = tensor.stride()
        even = (batch_stride | length_stride | tensor.shape[2]) % 2 == 0 and tensor.data_ptr() % 4 == 0
        if tensor.element_size() != 2 or channel_stride != 1 or not even or config.block < 64:
            return 1
    return 2
