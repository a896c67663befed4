"""How the compiled scan cuts its work: blocks of channels, tiles of time, and the small buffers that hold them."""

from __future__ import annotations

from bioaudio_kernels.compiled import kernel
from bioaudio_kernels.lane_math import load_some, store_some
from bioaudio_kernels.simd import LANES, load, store

CHANNELS = 64
TILE = 32


@kernel
def block_of(task, d_inner):
    """(sequence, first channel, number of channels) of a task."""
    blocks = (d_inner + CHANNELS - 1) // CHANNELS
    channel = task % blocks * CHANNELS
    return task // blocks, channel, min(CHANNELS, d_inner - channel)


@kernel
def gather(buffer, rows, array, start, stride, width):
    """buffer[row][0:width] = array[start + row * stride :][0:width], lanes beyond the width zero."""
    for row in range(rows):
        for c in range(0, width, LANES):
            store(buffer, row * CHANNELS + c, load_some(array, start + row * stride + c, width - c))


@kernel
def scatter(buffer, rows, array, start, stride, width):
    """array[start + row * stride :][0:width] = buffer[row][0:width]."""
    for row in range(rows):
        for c in range(0, width, LANES):
            store_some(array, start + row * stride + c, load(buffer, row * CHANNELS + c), width - c)
