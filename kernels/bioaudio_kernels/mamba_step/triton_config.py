"""How a step is cut into programs: by sizes alone, so that results repeat."""

from __future__ import annotations

from typing import NamedTuple

from bioaudio_kernels.integers import ceil_div, next_power_of_2

NARROW = 64
"""Widest stage of which a program takes whole blocks: their matrices fill the registers of 8 warps."""
WIDEST = 512
"""Widest stage for which any kernel is made."""
TILE = 16384
"""Numbers of a matrix in the registers of a program."""
NUM_WARPS = 8
PROGRAMS = 132
"""Of a launch, about: the multiprocessors of an H100, most of whose registers a program takes."""


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


def choose_step_config(rows: int, D: int, INNER: int) -> StepConfig:
    """For a stage of width D, filled up, with d_inner channels."""
    if D <= NARROW:
        return StepConfig(INNER, rows_of_a_program(rows, 1), True, NUM_WARPS)
    channels = min(INNER, 32 if rows < 64 else 64, max(16, TILE // (2 * D)))
    return StepConfig(channels, rows_of_a_program(rows, INNER // channels), False, NUM_WARPS)


def rows_of_a_program(rows: int, parts: int) -> int:
    """Where each row is the work of `parts` programs."""
    return next_power_of_2(ceil_div(rows * parts, PROGRAMS))
