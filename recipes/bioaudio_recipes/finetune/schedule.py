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

    @property
    def batch_size(self) -> int:
        """Examples in a step."""
        return sum(self.microbatches)


@dataclass(frozen=True, kw_only=True)
class FinetuneSchedule:
    """Epochs, batch and length warm-up; the defaults are the Mamba paper's (appendix E.3)."""

    epochs: int = 10
    """Epochs in all, those of the length warm-up included."""
    steps_per_epoch: int | None = None
    """Optimizer steps in an epoch; None is 1,024 for genomes, a pass over the training rows for sequences."""
    batch_size: int = 64
    """Examples in an optimizer step, at every length."""
    warmup: list[WarmupStage] | None = None
    """Shorter lengths to train at first, as [{length: 4096, epochs: 1}]; [] is none. None is the paper's
    rule for genomes: one epoch at each of 2^14, 2^15, ... below the length."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--schedule.{name} must be 1 or more, got {getattr(self, name)}")
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise ValueError(f"--schedule.steps_per_epoch must be 1 or more, got {self.steps_per_epoch}")

    def steps_in_epoch(self, examples_per_epoch: int | None) -> int:
        """Optimizer steps in an epoch of a task with so many examples in a pass (None: no passes)."""
        if self.steps_per_epoch is not None:
            return self.steps_per_epoch
        return (
            PAPER_STEPS_PER_EPOCH if examples_per_epoch is None else -(-examples_per_epoch // self.batch_size)
        )

    def plan(
        self, length: int, tokens_per_microbatch: int, examples_per_epoch: int | None = None
    ) -> list[StagePlan]:
        """The stages up to `length` bases, the last one at `length`.

        Args:
            length: bases in an example of the last stage.
            tokens_per_microbatch: most tokens that go through the model at once, if more than one example.
            examples_per_epoch: training examples in a pass, where passes have a meaning.

        Raises:
            ValueError: if the warm-up leaves no epoch for `length`, or is not below it.
        """
        steps = self.steps_in_epoch(examples_per_epoch)
        warmup = self._warmup(length, has_windows=examples_per_epoch is None)
        rest = self.epochs - sum(stage.epochs for stage in warmup)
        if rest < 1:
            raise ValueError(
                f"--schedule.epochs {self.epochs}: the length warm-up takes {self.epochs - rest}, so none is "
                f"left for {length} bases; raise it or give --schedule.warmup"
            )
        stages = [*warmup, WarmupStage(length=length, epochs=rest)]
        return [
            StagePlan(
                length=stage.length,
                steps=stage.epochs * steps,
                microbatches=_cut(self.batch_size, max(1, tokens_per_microbatch // stage.length)),
            )
            for stage in stages
        ]

    def _warmup(self, length: int, has_windows: bool) -> list[WarmupStage]:
        if self.warmup is None and not has_windows:
            return []
        if self.warmup is None:
            powers = range(PAPER_LONGEST_COLD.bit_length() - 1, (length - 1).bit_length())
            return [WarmupStage(length=2**power) for power in powers]
        for stage in self.warmup:
            if stage.length >= length:
                raise ValueError(
                    f"--schedule.warmup: a warm-up at {stage.length} bases is not below --length {length}"
                )
        return self.warmup


def _cut(examples: int, most: int) -> tuple[int, ...]:
    """Sizes of the fewest parts of at most `most` examples, as even as can be."""
    parts = -(-examples // most)
    small, larger = divmod(examples, parts)
    return (small + 1,) * larger + (small,) * (parts - larger)
