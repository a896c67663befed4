"""How a step is cut into programs: by sizes alone, so that results repeat."""

from __future__ import annotations

from typing import NamedTuple

import torch

from bioaudio_kernels.integers import ceil_div, next_power_of_2

NARROW = 64
"""Widest stage of which a program takes whole blocks: their matrices fill the registers of 8 warps."""
WIDEST = 512
"""Widest stage for which any kernel is made."""
CHANNELS = 32
"""Of a wide block, in one program."""
OUTPUTS = 32
"""Of a projection between stages, in one program, at most."""
TILE = 16384
"""Numbers of a matrix that the registers of a program hold, at most."""
NUM_WARPS = 8
LANES = 4 * 32 * NUM_WARPS
"""Numbers that the threads of a program load at once."""
PROGRAMS = 132
"""Of a launch, about: the multiprocessors of an H100, most of whose registers a program takes."""
WIDE_PROGRAMS = 528
"""Of a launch for a wide block, whose programs are smaller."""
EARLY_LAUNCH = False
"""Whether launches that follow each other overlap, the later one loading its weights: from sm_90 on."""


class StepConfig(NamedTuple):
    """Of the launches of a stage."""

    channels: int
    """Of d_inner, in one program."""
    rows: int
    """Sequences of a program, one after the other."""
    narrow: bool
    """Whether a program takes whole blocks."""
    num_warps: int
    """Of a program."""


def starts_early(device: torch.device) -> bool:
    """Whether kernels on a device may start before the launch before them has ended."""
    return EARLY_LAUNCH and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def choose_step_config(rows: int, D: int, INNER: int) -> StepConfig:
    """For a stage of width D, filled up, with d_inner channels."""
    channels = channels_of_a_program(D, INNER)
    if D <= NARROW:
        return StepConfig(channels, rows_of_a_program(rows), True, NUM_WARPS)
    each = rows_of_a_program(rows * (INNER // channels), WIDE_PROGRAMS)
    return StepConfig(channels, each, False, NUM_WARPS)


def channels_of_a_program(D: int, INNER: int) -> int:
    """All of a narrow stage, and of a wide one so few that a single sequence keeps many programs busy."""
    return INNER if D <= NARROW else min(INNER, CHANNELS, TILE // (2 * D))


def outputs_of_a_program(inputs: int, outputs: int) -> int:
    """Of a projection between stages."""
    return max(1, min(outputs, OUTPUTS, TILE // inputs))


def rows_of_a_program(work: int, programs: int | None = None) -> int:
    """How many rows are one program's, where each of them is the work of some programs."""
    return next_power_of_2(ceil_div(work, programs or PROGRAMS))
