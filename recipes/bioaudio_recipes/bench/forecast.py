"""Whether a plain implementation, tried on short sequences, would end at the asked length."""

from __future__ import annotations

import math
from dataclasses import replace

from bioaudio_recipes.bench.clock import Clock
from bioaudio_recipes.bench.contender import Contender, Job
from bioaudio_recipes.bench.memory import kept_bytes, physical_bytes
from bioaudio_recipes.bench.shape import Shape

FIRST_LENGTH = 128
GROWTH = 4
LEAST_PASSES = 3
"""About what a contender takes before its first turn and in it."""
MOST_OF_MEMORY = 0.5
"""Of what a machine has, for what is kept; a backward pass takes about as much again."""


def obstacle(contender: Contender, shape: Shape, clock: Clock, seconds: float) -> str | None:
    """Why a few passes at this shape would take longer than `seconds`, or more memory than a CPU has.

    Lengths grow fourfold from 128. The time of the asked length follows from the last two by their power law,
    at most the square; a GPU that runs out of memory says so itself.
    """
    length, previous = FIRST_LENGTH, None
    while length < shape.length:
        job = contender.job(replace(shape, length=length))
        last = list(job.passes.values())[-1]
        if previous is None:
            last()  # a first call may compile
        spent = clock(last) / 1e3
        power = 0.0 if previous is None else min(max(math.log(spent / previous, GROWTH), 0.0), 2.0)
        expected = spent * (shape.length / length) ** power
        needed = LEAST_PASSES * expected
        if needed > seconds:
            return f"{LEAST_PASSES} passes would take about {needed:,.1f} s, --seconds is {seconds:g}"
        reason = _too_large(job, shape, length)
        if reason is not None:
            return reason
        length, previous = length * GROWTH, spent
    return None


def _too_large(job: Job, shape: Shape, length: int) -> str | None:
    if shape.device != "cpu" or job.keep is None:
        return None
    kept = kept_bytes(job.keep, job.inputs, "cpu") * shape.length / length
    if kept > MOST_OF_MEMORY * physical_bytes():
        there = physical_bytes() / 1e9
        return f"would keep {kept / 1e9:,.0f} GB for the backward pass, this machine has {there:,.0f}"
    return None
