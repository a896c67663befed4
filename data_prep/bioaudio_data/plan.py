"""Token and step arithmetic of sequence-length warm-up: as many tokens a step at every length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage of a length schedule: how much it reads, and in how many optimizer steps."""

    length: int
    """Bases in a window."""
    windows: int
    """Windows in an epoch."""
    batch_size: int
    """Windows in an optimizer step, over all ranks and micro-batches."""
    tokens: int
    """Tokens in an epoch: windows x length."""
    epochs: float
    """Passes over the windows."""
    steps: int
    """Optimizer steps of the stage."""


def plan_stages(
    windows: Mapping[int, int], *, tokens_per_step: int, epochs: float | Sequence[float] = 2.0
) -> list[StagePlan]:
    """Plan stages at constant tokens per step (Mamba paper, E.3: the batch halves as the length doubles).

    Args:
        windows: windows in an epoch for each length, in the order of the stages.
        tokens_per_step: tokens of one optimizer step; every length must divide it.
        epochs: passes over the windows in each stage, one number for all or one per stage.

    Returns:
        One plan per length; steps = epochs x windows x length / tokens_per_step, rounded, at least 1.

    Raises:
        ValueError: for a length that does not divide `tokens_per_step`, or counts or epochs not above 0.
    """
    passes = [float(epochs)] * len(windows) if isinstance(epochs, int | float) else [float(e) for e in epochs]
    if len(passes) != len(windows):
        raise ValueError(
            f"{len(passes)} values of epochs for {len(windows)} lengths: give one for all, or one per length"
        )
    return [
        _stage(length, count, e, tokens_per_step)
        for (length, count), e in zip(windows.items(), passes, strict=True)
    ]


def _stage(length: int, windows: int, epochs: float, tokens_per_step: int) -> StagePlan:
    if length < 1 or windows < 1 or not 0 < epochs < float("inf"):
        raise ValueError(
            f"a stage needs length, windows and epochs above 0, got {length}, {windows} and {epochs:g}"
        )
    batch_size, rest = divmod(tokens_per_step, length)
    if rest or batch_size < 1:
        raise ValueError(
            f"length {length} does not divide tokens_per_step {tokens_per_step}: the batch would be "
            f"{tokens_per_step / length:.4g} windows; change --lengths or --tokens-per-step"
        )
    tokens = windows * length
    steps = max(1, round(epochs * tokens / tokens_per_step))
    return StagePlan(
        length=length, windows=windows, batch_size=batch_size, tokens=tokens, epochs=epochs, steps=steps
    )
