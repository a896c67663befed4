"""Examples as tensors: padded at the right, with the lengths that count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from bioaudio_data.vocabulary import DNA
from torch import Tensor
from torch.utils.data import Dataset

from bioaudio_recipes.finetune.schedule import StagePlan
from bioaudio_recipes.finetune.task import Example, Task


class Batch(NamedTuple):
    """Some examples."""

    tokens: Tensor
    """Token ids or codes (batch, length); behind the end of the shorter ones stands what counts nothing."""
    lengths: Tensor | None
    """Tokens that count, int64 (batch,); None where no example is padded."""
    labels: Tensor
    """Classes, int64 (batch,)."""

    def split(self, sizes: Sequence[int]) -> Iterator[Batch]:
        """Parts of the given numbers of examples, in order."""
        ends = np.cumsum(sizes)
        for part in map(slice, ends - sizes, ends):
            lengths = None if self.lengths is None else self.lengths[part]
            yield Batch(self.tokens[part], lengths, self.labels[part])


def collate(examples: Sequence[Example]) -> Batch:
    """A batch as wide as its longest example."""
    lengths = np.array([len(tokens) for tokens, _ in examples])
    padded = np.full((len(examples), lengths.max()), DNA.PAD, examples[0][0].dtype)
    for row, (tokens, _) in zip(padded, examples, strict=True):
        row[: len(tokens)] = tokens
    some_shorter = bool((lengths < padded.shape[1]).any())
    return Batch(
        tokens=torch.from_numpy(padded),
        lengths=torch.from_numpy(lengths) if some_shorter else None,
        labels=torch.tensor([label for _, label in examples]),
    )


class StepBatches(Dataset[Batch]):
    """The examples of each optimizer step of a whole run, by the step's number: a pure function of the seed.

    An epoch of the task's draws lasts from the first step of a stage to its last.

    Args:
        task: where examples come from.
        stages: in the order of training.
        seed: of all draws.

    Raises:
        ValueError: if a class has no example of a stage's length.
    """

    def __init__(self, task: Task, stages: Sequence[StagePlan], seed: int) -> None:
        self.stages = tuple(stages)
        self._draws = [task.training(stage.length, seed) for stage in stages]
        self._ends = np.cumsum([stage.steps for stage in stages])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def stage_of(self, step: int) -> int:
        """The place of the stage that holds optimizer step `step`."""
        return int(np.searchsorted(self._ends, step, side="right"))

    def __getitem__(self, step: int) -> Batch:
        """The examples of optimizer step `step`, counted from 0 over all stages."""
        number = self.stage_of(step)
        stage, draw = self.stages[number], self._draws[number]
        first = (step - (int(self._ends[number]) - stage.steps)) * stage.batch_size
        return collate([draw(number, index) for index in range(first, first + stage.batch_size)])
