"""Perplexity on the validation split at several lengths, on the same windows every time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from bioaudio_data.windows import StagePlan
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray

from bioaudio_recipes.pretrain.language_model import LanguageModel
from bioaudio_recipes.pretrain.next_token_loss import next_token_sums, per_base
from bioaudio_recipes.pretrain.packed_windows import PackedWindows
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
        if any(length < 2 for length in self.lengths):
            raise ValueError(f"--validation.lengths must be 2 or more, got {self.lengths}")
        if self.max_bases < 1 or (self.every is not None and self.every < 1):
            raise ValueError("--validation.max_bases and --validation.every must be 1 or more")


def validation_columns(lengths: Iterable[int]) -> list[str]:
    """Columns of metrics.csv that validation fills."""
    return [f"val/{name}@{length}" for length in lengths for name in ("perplexity", "bits_per_base")]


def evenly(windows: int, wanted: int) -> NDArray[np.int64]:
    """Numbers of `wanted` windows (at least 1, at most all) spread evenly over `windows`, in order."""
    count = max(1, min(wanted, windows))
    return (np.arange(count) * windows + windows // 2) // count if count < windows else np.arange(windows)


class Validation(StepCallback):
    """Validates before the first step, after each stage, and every `config.every` steps.

    The averaged weights are judged where an average is kept.

    Args:
        metrics: takes the rows.
        windows: of the validation split, cut side by side, by length.
        stages: the plan of the run.
        config: when, and how many bases.
        tokens_per_batch: tokens of a batch here.
        step_log: told how long validation took, so that it does not count as training.
    """

    def __init__(
        self,
        metrics: MetricsLog,
        windows: Mapping[int, PackedWindows],
        stages: Sequence[StagePlan],
        config: ValidationConfig,
        tokens_per_batch: int,
        step_log: StepLog,
    ) -> None:
        self.metrics = metrics
        self.windows = dict(windows)
        self.config = config
        self.borders = set(np.cumsum([stage.steps for stage in stages]).tolist())
        self.tokens_per_batch = tokens_per_batch
        self.step_log = step_log
        self.perplexity: dict[int, float] = {}
        """The newest result, by length."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the model that the run starts from, unless the run goes on from a checkpoint.

        After `on_train_start` of every callback, since signals are taken there and this may take minutes.
        """
        if trainer.global_step == 0:
            self._validate(trainer, pl_module, 0)

    def on_step_end(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        """Validate where it is due."""
        if step in self.borders or (self.config.every is not None and step % self.config.every == 0):
            self._validate(trainer, module, step)

    def _validate(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        assert isinstance(module, LanguageModel)
        started = time.perf_counter()
        self.perplexity = {}
        values: dict[str, float] = {}
        for length in self.windows:
            measures = per_base(self._nats_per_base(trainer, module, length))
            self.perplexity[length] = measures["perplexity"]
            values |= {f"val/{name}@{length}": value for name, value in measures.items()}
        self.metrics.log(step, values)
        self.step_log.pause(time.perf_counter() - started)

    @torch.no_grad()
    def _nats_per_base(self, trainer: Trainer, module: LanguageModel, length: int) -> float:
        """Mean negative log-likelihood over all ranks' windows of one length."""
        windows = self.windows[length]
        mine = evenly(len(windows), self.config.max_bases // length)[
            trainer.global_rank :: trainer.world_size
        ]
        size = max(1, self.tokens_per_batch // length)
        sums = torch.zeros(2, dtype=torch.float64, device=module.device)
        for first in range(0, len(mine), size):
            batch = torch.from_numpy(windows.read(mine[first : first + size])).to(module.device)
            with trainer.precision_plugin.forward_context():
                chunk_length = module.memory.chunk_length_of(len(batch))
                found = next_token_sums(module.result, batch, chunk_length=chunk_length)
            sums += torch.stack([found.nll, found.bases])
        if trainer.world_size > 1:
            sums = trainer.strategy.reduce(sums, reduce_op="sum")
        nll, bases = sums.tolist()
        if not bases:
            raise ValueError(
                f"validation windows of {length} bases hold no A, C, G or T; choose another split"
            )
        return nll / bases
