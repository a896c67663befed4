"""How long a classifier trains at each length, and in what micro-batches."""

from __future__ import annotations

from dataclasses import dataclass

PAPER_LONGEST_COLD = 2**14
"""Up to this length the Mamba paper trains without length warm-up."""
PAPER_STEPS_PER_EPOCH = 1024


@dataclass(frozen=True, kw_only=True)
class WarmupStage:
    """Training at a length shorter than the final one."""

    length: int
    """Bases in a window."""
    epochs: int = 1
    """Epochs at this length."""

    def __post_init__(self) -> None:
        if self.length < 1 or self.epochs < 1:
            raise ValueError(
                f"--schedule.warmup: length and epochs must be 1 or more, got {self.length} and {self.epochs}"
            )


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage, in numbers."""

    length: int
    """Most bases in an example."""
    steps: int
    """Optimizer steps."""
    microbatches: tuple[int, ...]
    """Examples in each of the micro-batches that make a step."""


@dataclass(frozen=True, kw_only=True)
class FinetuneSchedule:
    """Epochs, batch and length warm-up; the defaults are the Mamba paper's (appendix E.3)."""

    epochs: int = 10
    """Epochs in all, those of the length warm-up included."""
    steps_per_epoch: int | None = None
    """Optimizer steps in an epoch; None is 1,024 for genomes, one pass over the training rows for --sequences."""
    batch_size: int = 64
    """Examples in an optimizer step, at every length."""
    warmup: list[WarmupStage] | None = None
    """Shorter lengths to train at first; None is the paper's rule: one epoch at each of 2^14, 2^15, ... below the
    length; [] is no warm-up."""
    tokens_per_microbatch: int = 2**18
    """Most tokens that go through the model at once; a step is cut into as many parts as that takes."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "tokens_per_microbatch"):
            if getattr(self, name) < 1:
                raise ValueError(f"--schedule.{name} must be 1 or more, got {getattr(self, name)}")
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise ValueError(f"--schedule.steps_per_epoch must be 1 or more, got {self.steps_per_epoch}")

    def plan(self, length: int, examples_per_epoch: int | None) -> list[StagePlan]:
        """The stages up to `length` bases, the last one at `length`.

        Args:
            length: bases in an example of the last stage.
            examples_per_epoch: training examples in a pass, where passes have a meaning.

        Raises:
            ValueError: if the warm-up leaves no epoch for `length`, or is not below it.
        """
        steps = self.steps_per_epoch or PAPER_STEPS_PER_EPOCH
        if self.steps_per_epoch is None and examples_per_epoch is not None:
            steps = -(-examples_per_epoch // self.batch_size)
        warmup = self._warmup(length)
        rest = self.epochs - sum(stage.epochs for stage in warmup)
        if rest < 1:
            raise ValueError(
                f"--schedule.epochs {self.epochs}: the length warm-up takes {self.epochs - rest}, so none is left for "
                f"{length} bases; raise it or give --schedule.warmup"
            )
        stages = [*warmup, WarmupStage(length=length, epochs=rest)]
        return [
            StagePlan(length=stage.length, steps=stage.epochs * steps, microbatches=self._cut(stage.length))
            for stage in stages
        ]

    def _warmup(self, length: int) -> list[WarmupStage]:
        if self.warmup is None:
            shorter = [2**k for k in range(14, length.bit_length()) if PAPER_LONGEST_COLD <= 2**k < length]
            return [WarmupStage(length=each) for each in shorter]
        for stage in self.warmup:
            if stage.length >= length:
                raise ValueError(
                    f"--schedule.warmup: a warm-up at {stage.length} bases is not below --length {length}"
                )
        return self.warmup

    def _cut(self, length: int) -> tuple[int, ...]:
        """Examples of a step in parts of at most `tokens_per_microbatch` tokens, as even as can be."""
        parts = -(-self.batch_size // max(1, self.tokens_per_microbatch // length))
        small, more = divmod(self.batch_size, parts)
        return (small + 1,) * more + (small,) * (parts - more)
