"""Sequence-length warm-up: stages of growing windows, with as many tokens in every optimizer step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bioaudio_data.windows import StagePlan, plan_stages


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One window length and how long to train on it: either `epochs` or `steps`."""

    length: int
    """Bases or samples in a window."""
    epochs: float | None = None
    """Passes over all windows of this length, rounded to whole steps."""
    steps: int | None = None
    """Optimizer steps."""

    def __post_init__(self) -> None:
        if self.length < 2:
            raise ValueError(
                f"--schedule.stages: length must be 2 or more, a window of {self.length} predicts nothing"
            )
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                f"--schedule.stages: the stage of length {self.length} needs either epochs or steps"
            )
        if (self.epochs or self.steps or 0) <= 0:
            raise ValueError(
                f"--schedule.stages: the stage of length {self.length} must last more than 0 epochs or steps"
            )


@dataclass(frozen=True, kw_only=True)
class LengthWarmup:
    """Stages in the order of training; the learning rate spans them all."""

    stages: list[Stage]
    """Window lengths, each with its `epochs` or `steps`."""
    tokens_per_step: int = 2**20
    """Tokens of one optimizer step, over all micro-batches and devices, at every length."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError(
                "--schedule.stages is empty; give at least one, e.g. [{length: 1024, steps: 100}]"
            )
        for stage in self.stages:
            if self.tokens_per_step % stage.length:
                raise ValueError(
                    f"--schedule.tokens_per_step {self.tokens_per_step} is not a whole number of windows of "
                    f"{stage.length} tokens; make it a multiple of every stage's length"
                )

    @property
    def lengths(self) -> tuple[int, ...]:
        """Every window length, once, in the order of training."""
        return tuple(dict.fromkeys(stage.length for stage in self.stages))

    def accumulation(self, tokens_per_microbatch: int, devices: int, context: int = 1) -> int:
        """Micro-batches of each device in an optimizer step, the same in every stage.

        Args:
            tokens_per_microbatch: of one device.
            devices: of the run.
            context: devices that share their windows.

        Raises:
            ValueError: if micro-batches do not divide a step, or windows a micro-batch.
        """
        for length in self.lengths:
            if tokens_per_microbatch * context % length:
                shared = f" on {context} devices that share windows" if context > 1 else ""
                raise ValueError(
                    f"--trainer.tokens_per_microbatch {tokens_per_microbatch}{shared} is not a multiple of "
                    f"{length} tokens, the length of a stage; make it one of every stage's length"
                )
        accumulation, rest = divmod(self.tokens_per_step, tokens_per_microbatch * devices)
        if rest or not accumulation:
            parts, rest = divmod(self.tokens_per_step, tokens_per_microbatch)
            fitting = [str(count) for count in range(1, parts + 1) if not rest and parts % count == 0]
            raise ValueError(
                f"--schedule.tokens_per_step {self.tokens_per_step} is not a whole number of micro-batches "
                f"(--trainer.tokens_per_microbatch {tokens_per_microbatch}) on each of {devices} devices; "
                + (f"take {', '.join(fitting)} devices, or " if fitting else "")
                + "choose other micro-batches"
            )
        return accumulation

    def plan(self, windows: Mapping[int, int]) -> list[StagePlan]:
        """Steps and epochs of every stage.

        Args:
            windows: windows in an epoch of each length.
        """
        return [self._plan_stage(stage, windows[stage.length]) for stage in self.stages]

    def _plan_stage(self, stage: Stage, windows: int) -> StagePlan:
        if stage.steps is None:
            counts = {stage.length: windows}
            return plan_stages(counts, tokens_per_step=self.tokens_per_step, epochs=stage.epochs or 1.0)[0]
        tokens = windows * stage.length
        return StagePlan(
            length=stage.length,
            windows=windows,
            batch_size=self.tokens_per_step // stage.length,
            tokens=tokens,
            epochs=stage.steps * self.tokens_per_step / tokens,
            steps=stage.steps,
        )
