"""B and C for compiled sweeps: a tile in lanes, [step][value][lane], whatever form the caller gave.

A map lies in memory as [row][group][value]: a row for every step; or, constant in time, one row in which
every channel is a group. `values` is d_state, twice that for complex maps.
"""

from __future__ import annotations

from bioaudio_kernels.blocks import CHANNELS
from bioaudio_kernels.compiled import inlined
from bioaudio_kernels.simd import LANES, load, splat_at, store, total


@inlined
def groups_change(channel, c, count, per_group):
    """Whether channels c to c + count - 1 of a block need other lanes than the eight channels before them."""
    return c == 0 or (channel + c - LANES) // per_group != (channel + c + count - 1) // per_group


@inlined
def fill_lanes(lanes, map, start, row_step, rows, values, channel, count, per_group):
    """lanes[row][value] = that of the group of each of `count` channels, where row 0 is at `start`."""
    group = channel // per_group
    if group == (channel + count - 1) // per_group:
        for row in range(rows):
            for value in range(values):
                at = start + row * row_step + group * values + value
                store(lanes, (row * values + value) * LANES, splat_at(map, at))
    else:
        for lane in range(LANES):
            group = (channel + min(lane, count - 1)) // per_group
            for row in range(rows):
                for value in range(values):
                    at = start + row * row_step + group * values + value
                    lanes[(row * values + value) * LANES + lane] = map[at]


@inlined
def add_lanes(lanes, gradient, start, row_step, rows, values, channel, count, per_group, slot_size):
    """Add the gradient of every channel to that of its group; a group's blocks have a slot each."""
    block = channel // CHANNELS
    group = channel // per_group
    if group == (channel + count - 1) // per_group:
        slot = block - group * per_group // CHANNELS
        for row in range(rows):
            for value in range(values):
                at = slot * slot_size + start + row * row_step + group * values + value
                gradient[at] += total(load(lanes, (row * values + value) * LANES))
    else:
        for lane in range(count):
            group = (channel + lane) // per_group
            slot = block - group * per_group // CHANNELS
            for row in range(rows):
                for value in range(values):
                    at = slot * slot_size + start + row * row_step + group * values + value
                    gradient[at] += lanes[(row * values + value) * LANES + lane]
