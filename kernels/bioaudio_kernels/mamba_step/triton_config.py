"""How a step is cut into programs: by sizes alone, so that results repeat."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

from bioaudio_kernels.integers import ceil_div, next_power_of_2

NARROW = 64
"""Widest stage of which a program takes whole blocks: their matrices fill the registers of 8 warps."""
WIDEST = 512
"""Widest stage for which any kernel is made."""
MOST_STATES = 64
"""Of a channel, likewise: x_proj has to fit in shared memory."""
CHANNELS = 32
"""Of a wide block, in one program."""
OUTPUTS = 32
"""Of a projection, in one program, at most."""
TILE = 16384
"""Numbers of a matrix that the registers of a program hold, at most."""
NUM_WARPS = 8
LANES = 4 * 32 * NUM_WARPS
"""Numbers that the threads of a program load at once."""
PROGRAMS = 132
"""Of a launch, about: the multiprocessors of an H100, most of whose registers a program takes."""
TILES_FROM = 2**16
"""Rows times outputs from which products of matrices are quicker than those of a matrix and a vector."""
LEAST_ROWS = 16
"""Of a product of matrices, in one program: tensor cores take no less."""
MOST_ROWS = 64
"""The same, at most."""
CHUNK = 32
"""Inputs of it that are taken at once."""
SCANNED = 128
"""Channels of a program that scans between such products."""
TILE_WARPS = 4
"""Of both."""


class StepConfig(NamedTuple):
    """Of the launches of a stage."""

    form: Literal["narrow", "wide", "tiles"]
    """Programs have whole blocks, some channels of one sequence, or some channels of several at once."""
    channels: int
    """Of d_inner, in one program."""
    rows: int
    """Sequences of a program."""


def starts_early(device: torch.device) -> bool:
    """Whether kernels of one sequence a program may start before the launch before them has ended."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def choose_step_config(rows: int, D: int, INNER: int) -> StepConfig:
    """For a stage of width D, filled up, with d_inner channels."""
    channels = channels_of_a_program(D, INNER)
    if D <= NARROW:
        return StepConfig("narrow", channels, rows_of_a_program(rows))
    if not takes_tiles(rows, INNER):
        return StepConfig("wide", channels, 1)
    return StepConfig("tiles", channels, rows_of_a_tile(rows * (INNER // channels)))


def channels_of_a_program(D: int, INNER: int) -> int:
    """All of a narrow stage, and of a wide one so few that a single sequence keeps many programs busy."""
    return INNER if D <= NARROW else min(INNER, CHANNELS, TILE // (2 * D))


def outputs_of_a_program(inputs: int, outputs: int) -> int:
    """Of a projection between stages."""
    return max(1, min(outputs, OUTPUTS, TILE // inputs))


def rows_of_a_program(work: int) -> int:
    """How many rows are one program's, where each of them is the work of some programs."""
    return next_power_of_2(ceil_div(work, PROGRAMS))


def takes_tiles(rows: int, outputs: int) -> bool:
    """Whether programs are to have tiles of rows, and not vectors."""
    return rows * outputs >= TILES_FROM


def rows_of_a_tile(work: int) -> int:
    """`rows_of_a_program`, of a product of matrices."""
    return min(MOST_ROWS, max(LEAST_ROWS, rows_of_a_program(work)))
