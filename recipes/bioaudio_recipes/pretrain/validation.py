"""Perplexity on the validation split at several lengths, on the same windows every time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from bioaudio_data.windows import StagePlan
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray

from bioaudio_recipes.pretrain.language_model import LanguageModel
from bioaudio_recipes.pretrain.next_token_loss import per_target
from bioaudio_recipes.pretrain.step_log import StepLog
from bioaudio_recipes.training.metrics_log import MetricsLog
from bioaudio_recipes.training.step_callback import StepCallback


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """When and on what the model is validated while it trains."""

    lengths: list[int] = field(default_factory=list)
    """Window lengths to validate at, longer than those of training if you like; empty for the schedule's."""
    max_bases: int = 2**20
    """Bases read at each length, in windows spread evenly over the validation split."""
    every: int | None = None
    """Also validate every so many steps; before the first step and after each stage it is always done."""

    def __post_init__(self) -> None:
        check_validation(self.lengths, "max_bases", self.max_bases, self.every)


def check_validation(lengths: Sequence[int], most_name: str, most: int, every: int | None) -> None:
    """Refuse lengths of which nothing can be predicted, and counts below 1.

    Raises:
        ValueError: naming the flag.
    """
    if any(length < 2 for length in lengths):
        raise ValueError(f"--validation.lengths must be 2 or more, got {lengths}")
    if most < 1 or (every is not None and every < 1):
        raise ValueError(f"--validation.{most_name} and --validation.every must be 1 or more")


def validation_columns(lengths: Iterable[int], unit: str) -> list[str]:
    """Columns of metrics.csv that validation fills; `unit` is that of the objective."""
    return [f"val/{name}@{length}" for length in lengths for name in ("perplexity", f"bits_per_{unit}")]


class HeldOutWindows(Protocol):
    """Windows of one length, side by side."""

    def __len__(self) -> int: ...
    def read(self, indices: NDArray[np.integer]) -> Any:
        """Those numbered `indices`, as the objective's `batch` takes them."""


def evenly(windows: int, wanted: int) -> NDArray[np.int64]:
    """Numbers of `wanted` windows (at least 1, at most all) spread evenly over `windows`, in order."""
    count = max(1, min(wanted, windows))
    return (np.arange(count) * windows + windows // 2) // count if count < windows else np.arange(windows)


class Validation(StepCallback):
    """Validates before the first step, after each stage, and every `every` steps.

    The averaged weights are judged where an average is kept.

    Args:
        metrics: takes the rows.
        windows: of the validation split, cut side by side, by length.
        stages: the plan of the run.
        every: steps between two validations within a stage; None for none.
        most_tokens: read at each length.
        tokens_per_batch: tokens of a batch here.
        step_log: told how long validation took, so that it does not count as training.
    """

    def __init__(
        self,
        metrics: MetricsLog,
        windows: Mapping[int, HeldOutWindows],
        stages: Sequence[StagePlan],
        every: int | None,
        most_tokens: int,
        tokens_per_batch: int,
        step_log: StepLog,
    ) -> None:
        self.metrics = metrics
        self.windows = dict(windows)
        self.every = every
        self.most_tokens = most_tokens
        self.borders = set(np.cumsum([stage.steps for stage in stages]).tolist())
        self.tokens_per_batch = tokens_per_batch
        self.step_log = step_log
        self.nats: dict[int, float] = {}
        """The newest result by length, for each target."""
        self.step = 0
        """The step of that result."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the model that the run starts from, unless the run goes on from a checkpoint.

        After `on_train_start` of every callback, since signals are taken there and this may take minutes.
        """
        if trainer.global_step == 0:
            self._validate(trainer, pl_module, 0)

    def on_step_end(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        """Validate where it is due."""
        if step in self.borders or (self.every is not None and step % self.every == 0):
            self._validate(trainer, module, step)

    def _validate(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        assert isinstance(module, LanguageModel)
        started = time.perf_counter()
        if module.recorded is not None:
            module.recorded.forget()  # its memory, of all activations, is needed here
        self.nats, self.step = {}, step
        values: dict[str, float] = {}
        for length in self.windows:
            self.nats[length] = self._nats_per_target(trainer, module, length)
            measures = per_target(self.nats[length], module.objective.unit)
            values |= {f"val/{name}@{length}": value for name, value in measures.items()}
        self.metrics.log(step, values)
        self.step_log.pause(time.perf_counter() - started)

    @torch.no_grad()
    def _nats_per_target(self, trainer: Trainer, module: LanguageModel, length: int) -> float:
        """Mean negative log-likelihood over all ranks' windows of one length."""
        windows = self.windows[length]
        mine = evenly(len(windows), self.most_tokens // length)[trainer.global_rank :: trainer.world_size]
        size = max(1, self.tokens_per_batch // length)
        sums = torch.zeros(2, dtype=torch.float64, device=module.device)
        for first in range(0, len(mine), size):
            batch = module.objective.batch(windows.read(mine[first : first + size]))
            batch = module.transfer_batch_to_device(batch, module.device, 0)
            with trainer.precision_plugin.forward_context(), module.memory.explain(module.device):
                found = module.objective.sums(module.result, batch, module.memory.chunk_length_of)
            sums += torch.stack([found.nll, found.targets])
        if trainer.world_size > 1:
            sums = trainer.strategy.reduce(sums, reduce_op="sum")
        nll, targets = sums.tolist()
        if not targets:
            raise ValueError(
                f"validation windows of length {length} hold no {module.objective.unit} to predict; choose "
                "another split"
            )
        return nll / targets
