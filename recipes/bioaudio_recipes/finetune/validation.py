"""Accuracy on the valid split while a classifier trains, on the same examples every time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lightning.pytorch import LightningModule, Trainer

from bioaudio_recipes.finetune.judging import Judge
from bioaudio_recipes.finetune.step_log import StepLog
from bioaudio_recipes.finetune.task import HeldOut, Task
from bioaudio_recipes.finetune.training_module import ClassifierModule
from bioaudio_recipes.training.metrics_log import MetricsLog
from bioaudio_recipes.training.step_callback import StepCallback


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How a classifier is judged."""

    lengths: list[int] = field(default_factory=list)
    """With --classes: window lengths to judge at; empty for the length of training."""
    windows: int = 256
    """With --classes: test windows of each class and length, evenly spaced over the test split."""
    valid_windows: int = 32
    """With --classes: windows of each class on the valid split after every epoch; 0 is none."""
    both_strands: bool = False
    """Average the logits of a sequence and of its reverse complement."""

    def __post_init__(self) -> None:
        if any(length < 1 for length in self.lengths):
            raise ValueError(f"--evaluation.lengths must be 1 or more, got {self.lengths}")
        if self.windows < 1 or self.valid_windows < 0:
            raise ValueError("--evaluation.windows must be 1 or more, --evaluation.valid_windows 0 or more")

    def valid(self, task: Task, lengths: Sequence[int]) -> dict[int, HeldOut]:
        """Examples of the valid split by length; none where none are wanted, or the task has none.

        Raises:
            ValueError: if a class has no sequence of a length in the valid split.
        """
        if not self.valid_windows:
            return {}
        examples = {length: task.held_out("valid", length, self.valid_windows) for length in lengths}
        return {length: found for length, found in examples.items() if found.count}


def validation_columns(lengths: Sequence[int]) -> list[str]:
    """Columns of metrics.csv that validation fills."""
    return [f"val/{name}@{length}" for length in lengths for name in ("loss", "accuracy")]


class Validation(StepCallback):
    """Judges the model every `every` steps, at the length of the stage that it is in.

    Args:
        metrics: takes the rows.
        examples: of the valid split, by length.
        judge: classifies them.
        every: steps, an epoch's.
        step_log: told how long validation took, so that it does not count as training.
    """

    def __init__(
        self,
        metrics: MetricsLog,
        examples: Mapping[int, HeldOut],
        judge: Judge,
        *,
        every: int,
        step_log: StepLog,
    ) -> None:
        self.metrics = metrics
        self.examples = dict(examples)
        self.judge = judge
        self.every = every
        self.step_log = step_log

    def on_step_end(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        """Judge where an epoch ends."""
        if step % self.every:
            return
        assert isinstance(module, ClassifierModule)
        started = time.perf_counter()
        length = module.steps.stages[module.steps.stage_of(step - 1)].length
        scores = self.judge(module.model, self.examples[length], length)
        values = {"loss": scores.loss, "accuracy": scores.accuracy}
        self.metrics.log(step, {f"val/{name}@{length}": value for name, value in values.items()})
        self.step_log.pause(time.perf_counter() - started)
