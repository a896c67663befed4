"""A race: implementations of one operation run in turn, after a check that they agree."""

from __future__ import annotations

import gc
import importlib.util
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from bioaudio_recipes.bench.clock import Clock
from bioaudio_recipes.bench.contender import Contender, Job
from bioaudio_recipes.bench.forecast import obstacle
from bioaudio_recipes.bench.memory import kept_bytes, peak_bytes
from bioaudio_recipes.bench.roofline import Work
from bioaudio_recipes.bench.shape import Shape

AGREEMENT = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Largest relative difference from ours, as 2-norms, of outputs and of every gradient."""
LONGEST_REASON = 110
CROWDED = 0.7
"""Share of a GPU's memory above which the allocator cannot keep blocks for all contenders together."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one contender showed at one shape: medians, or the reason why there are none."""

    name: str
    milliseconds: dict[str, float]
    """Median of each pass."""
    package: str | None = None
    """What it was imported from."""
    rounds: int = 0
    kept_bytes: int | None = None
    """What a forward pass keeps for the backward pass, its output included."""
    peak_bytes: int | None = None
    """The most that the last pass held, its results included; on a GPU only."""
    is_same: bool = True
    """Whether it computes what ours does."""
    difference: float | None = None
    """Largest relative difference from ours; None if that is no number."""
    reason: str | None = None
    """Why there are no times."""


@dataclass(frozen=True, kw_only=True)
class Heat:
    """A race at one shape."""

    shape: Shape
    results: list[Result]
    """Ours first."""
    work: dict[str, Work]
    """What each pass has to do at the least, where that is known."""
    tokens: int
    """Tokens of a step of a language model."""


def race(
    contenders: Sequence[Contender], shape: Shape, clock: Clock, *, rounds: int, seconds: float, label: str
) -> Heat:
    """Check and warm up all contenders, then let each run its passes once in every round.

    Interleaved rounds share out what else the machine does; medians drop its outliers. A contender that is
    not installed, fails, or differs from ours gets a reason instead of times.

    Args:
        contenders: ours first.
        shape: sizes of the race.
        clock: times a pass.
        rounds: turns of each contender.
        seconds: a contender that has run this long leaves the race, after one turn at least; a plain one that
            would need this long to get there does not start.
        label: names the progress bar.
    """
    entrants = [_Entrant(contender, shape, clock) for contender in contenders]
    expected: list[Tensor] = []
    for entrant in tqdm(entrants, desc=f"{label}: warm-up", leave=False):
        entrant.attempt(entrant.start, expected, seconds)
        if entrant is entrants[0]:
            expected = entrant.first_results
        entrant.first_results = []
    expected = []
    jobs = [entrant.job for entrant in entrants if entrant.job is not None]
    work = {name: least for job in jobs for name, least in job.work.items()}
    crowded = sum(entrant.peak for entrant in entrants) > CROWDED * _gpu_bytes(shape.device)
    for _ in tqdm(range(rounds), desc=label, leave=False):
        for entrant in entrants:
            if entrant.job is not None and (not entrant.times or entrant.spent_ms < seconds * 1e3):
                entrant.attempt(entrant.take_turn, crowded)
    return Heat(
        shape=shape,
        results=[entrant.result() for entrant in entrants],
        work=work,
        tokens=jobs[0].tokens if jobs else 0,
    )


class _Entrant:
    """A contender during a race."""

    def __init__(self, contender: Contender, shape: Shape, clock: Clock) -> None:
        self.contender, self.shape, self.clock = contender, shape, clock
        self.job: Job | None = None
        self.times: dict[str, list[float]] = {}
        self.first_results: list[Tensor] = []
        self.kept: int | None = None
        self.peak = 0
        self.difference: float | None = None
        self.reason = _absence(contender, shape.device)

    @property
    def spent_ms(self) -> float:
        return sum(map(sum, self.times.values()))

    def attempt(self, do: Callable[..., None], *arguments: Any) -> None:
        """Do it unless there is a reason not to; whatever it raises is one."""
        if self.reason is not None:
            return
        try:
            do(*arguments)
        except Exception as error:  # peers raise anything; the race goes on
            self.reason = describe(error)
        if self.reason is not None:
            self.job, self.peak = None, 0
            if self.shape.device == "cuda":
                gc.collect()
                torch.cuda.empty_cache()

    def start(self, expected: Sequence[Tensor], seconds: float) -> None:
        contender, shape = self.contender, self.shape
        if contender.is_plain:
            self.reason = obstacle(contender, shape, self.clock, seconds)
            if self.reason is not None:
                return
        self.job = job = contender.job(shape)
        self.first_results = job.results()
        if contender.is_same and expected:
            self.difference = largest_difference(self.first_results, expected)
            allowed = AGREEMENT[shape.dtype]
            if not self.difference <= allowed:
                self.reason = f"differs from ours by {self.difference:.1e}, {allowed:g} is allowed"
                return
        if job.keep is not None:
            self.kept = kept_bytes(job.keep, job.inputs, shape.device)
        if shape.device == "cuda" and job.has_peak:
            self.peak = peak_bytes(list(job.passes.values())[-1])

    def take_turn(self, make_room: bool) -> None:
        assert self.job is not None
        if make_room:
            torch.cuda.empty_cache()
            for run in self.job.passes.values():
                run()
        for name, run in self.job.passes.items():
            spent = self.clock(run) / self.job.repeats
            self.times.setdefault(name, []).append(spent)

    def result(self) -> Result:
        medians = {name: statistics.median(times) for name, times in self.times.items()}
        return Result(
            name=self.contender.name,
            package=self.contender.package,
            milliseconds=medians if self.reason is None else {},
            rounds=max(map(len, self.times.values()), default=0),
            kept_bytes=self.kept,
            peak_bytes=self.peak or None,
            is_same=self.contender.is_same,
            difference=None if self.difference == math.inf else self.difference,
            reason=self.reason,
        )


def largest_difference(results: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest relative difference between two lists of tensors, as 2-norms."""
    differences = []
    for result, other in zip(results, expected, strict=True):
        exact = other.float()
        # Where all is zero, as the gradient of A after one step, so must the result be.
        difference = (result.float() - exact).norm() / exact.norm().clamp(min=1e-30)
        differences.append(difference.nan_to_num(nan=math.inf, posinf=math.inf).item())
    return max(differences)


def describe(error: Exception) -> str:
    """An error in one short line."""
    text = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in text:
        return "out of memory"
    line = f"{type(error).__name__}: {text}"
    return line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 3] + "..."


def _absence(contender: Contender, device: str) -> str | None:
    package = contender.package
    if package is not None and importlib.util.find_spec(package) is None:
        return "not installed"
    return "runs on CUDA only" if contender.cuda_only and device != "cuda" else None


def _gpu_bytes(device: str) -> float:
    return torch.cuda.get_device_properties(device).total_memory if device == "cuda" else math.inf
