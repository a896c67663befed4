"""How compiled kernels cut their work: blocks of channels, tiles of time, small buffers [row][channel]."""

from __future__ import annotations

from bioaudio_kernels.compiled import inlined
from bioaudio_kernels.lane_math import load_some, store_some
from bioaudio_kernels.simd import LANES, load, prefetch, store

CHANNELS = 64
TILE = 32


def block_count(channels: int) -> int:
    """Blocks of at most `CHANNELS` channels; a task is one of them in one sequence of the batch."""
    return -(-channels // CHANNELS)


@inlined
def block_of(task, channels):
    """(sequence, first channel, number of channels) of a task."""
    blocks = (channels + CHANNELS - 1) // CHANNELS
    first = task % blocks * CHANNELS
    return task // blocks, first, min(CHANNELS, channels - first)


@inlined
def prefetch_step(ahead, t, c):
    """Ask for eight channels of step t of arrays that are soon to be read: (array, start, stride) each.

    One step at a time between other work: asked for all at once, they would wait for each other.
    """
    for array, start, stride in ahead:
        prefetch(array, start + t * stride + c)


@inlined
def gather(buffer, rows, array, start, stride, width):
    """buffer[row][0:width] = array[start + row * stride :][0:width], lanes beyond the width zero."""
    for row in range(rows):
        for c in range(0, width, LANES):
            store(buffer, row * CHANNELS + c, load_some(array, start + row * stride + c, width - c))


@inlined
def scatter(buffer, rows, array, start, stride, width):
    """array[start + row * stride :][0:width] = buffer[row][0:width]."""
    for row in range(rows):
        for c in range(0, width, LANES):
            store_some(array, start + row * stride + c, load(buffer, row * CHANNELS + c), width - c)
