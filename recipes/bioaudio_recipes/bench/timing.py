"""Timing of several implementations of one function, in turn, after a check that they agree."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

AGREEMENT = {torch.float32: 1e-3, torch.bfloat16: 5e-2}


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One implementation: a function without arguments, and the tensors whose gradients are wanted."""

    name: str
    run: Callable[[], Tensor]
    inputs: Sequence[Tensor] = ()
    """Empty if only the forward pass is timed."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Medians in milliseconds; `backward_ms` is None where only the forward pass was timed."""

    name: str
    forward_ms: float
    backward_ms: float | None
    rounds: int

    @property
    def total_ms(self) -> float:
        """Forward and backward together."""
        return self.forward_ms + (self.backward_ms or 0.0)


def race(contenders: Sequence[Contender], *, rounds: int, seconds: float, label: str) -> list[Timing]:
    """Time all contenders, the first of which is ours: a warm-up each, then rounds in which each runs once.

    Interleaved rounds share out what else the machine does; medians drop its outliers.

    Args:
        contenders: implementations of the same function.
        rounds: runs of each contender.
        seconds: a contender that has taken this long leaves the race, after one run at least.
        label: names the progress bar.

    Raises:
        ValueError: if a contender's output or gradients differ from those of the first.
    """
    expected: list[Tensor] = []
    for contender in tqdm(contenders, desc=f"{label}: warm-up", leave=False):
        _, _, results = _run(contender)
        expected = expected or results
        _check_agreement(contender, results, expected)
    times: dict[str, list[tuple[float, float]]] = {contender.name: [] for contender in contenders}
    for _ in tqdm(range(rounds), desc=label, leave=False):
        for contender in contenders:
            spent = times[contender.name]
            if not spent or sum(map(sum, spent)) < seconds:
                spent.append(_run(contender)[:2])
    return [_summary(contender, times[contender.name]) for contender in contenders]


def table(title: str, timings: Sequence[Timing]) -> str:
    """The timings as text, with each contender's total over that of the first."""
    width = max(len(timing.name) for timing in timings)
    lines = [
        title,
        f"  {'':{width}}  {'forward':>10}  {'backward':>10}  {'total':>10}  {'ours faster':>11}  rounds",
    ]
    for timing in timings:
        backward = "-" if timing.backward_ms is None else f"{timing.backward_ms:.2f}"
        ratio = "" if timing is timings[0] else f"{timing.total_ms / timings[0].total_ms:.1f}x"
        lines.append(
            f"  {timing.name:{width}}  {timing.forward_ms:>10.2f}  {backward:>10}  {timing.total_ms:>10.2f}"
            f"  {ratio:>11}  {timing.rounds:>6}"
        )
    return "\n".join(lines)


def _run(contender: Contender) -> tuple[float, float, list[Tensor]]:
    """Seconds of the forward and of the backward pass; the output and the gradients."""
    begin = _now(contender)
    with torch.set_grad_enabled(bool(contender.inputs)):
        y = contender.run()
    middle = _now(contender)
    if not contender.inputs:
        return middle - begin, 0.0, [y]
    gradients = torch.autograd.grad(y, list(contender.inputs), torch.ones_like(y))
    return middle - begin, _now(contender) - middle, [y.detach(), *gradients]


def _now(contender: Contender) -> float:
    if any(tensor.is_cuda for tensor in contender.inputs):
        torch.cuda.synchronize()
    return time.perf_counter()


def _check_agreement(contender: Contender, results: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for result, other in zip(results, expected, strict=True):
        error = ((result.float() - other.float()).abs().max() / other.float().abs().max()).item()
        if not error <= AGREEMENT[other.dtype]:
            raise ValueError(
                f"bench: {contender.name} gives another result (relative difference {error:.1e})"
            )


def _summary(contender: Contender, times: Sequence[tuple[float, float]]) -> Timing:
    forward, backward = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
    return Timing(
        name=contender.name,
        forward_ms=forward,
        backward_ms=backward if contender.inputs else None,
        rounds=len(times),
    )
