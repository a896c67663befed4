"""The Lightning module of fine-tuning: a batch is an optimizer step, cut into parts that fit in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from bioaudio_mamba import SequenceClassifier
from bioaudio_recipes.finetune.batches import Batch, StepBatches
from bioaudio_recipes.optimisation import OptimizerConfig, build_optimizer
from bioaudio_recipes.training.checkpoints import NUMBERS
from bioaudio_recipes.training.memory import MEMORY, MemoryPlanner, TrainingMemory

TALLY = "bioaudio_tally"


class Tally(NamedTuple):
    """Sums over the steps since the last row of metrics, and over the run."""

    loss: float
    """Of cross-entropy in nats, since the last row."""
    correct: float
    """Examples given their own class, since the last row."""
    examples: float
    """Examples since the last row."""
    tokens: float
    """Tokens since the run's first step, padding left out."""


class ClassifierModule(LightningModule):
    """Trains a `SequenceClassifier`; the loss of a step is the mean over its examples, however it was cut.

    Args:
        model: what is trained; parameters that need no gradient stay as they are.
        optimizer: how.
        steps: the batches of the run, for the sizes of their parts.
        numbers: settings that the run's numbers depend on, kept in checkpoints.
        planner: chooses how activations are kept, once the device is known; None keeps them all.
    """

    def __init__(
        self,
        model: SequenceClassifier,
        optimizer: OptimizerConfig,
        steps: StepBatches,
        numbers: Mapping[str, Any] | None = None,
        planner: MemoryPlanner | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.recipe = optimizer
        self.steps = steps
        self.numbers = dict(numbers or {})
        self.memory = TrainingMemory(planner)
        self.sums = torch.zeros(len(Tally._fields), dtype=torch.float64)
        self.grad_norm = torch.zeros(())

    def on_fit_start(self) -> None:
        """Choose how activations are kept."""
        self.memory.settle(self.trainer, self.device, self.model.backbone)

    def on_train_start(self) -> None:
        """Bring the sums to the device."""
        self.sums = self.sums.to(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One optimizer step, its gradients added up over the parts of the batch."""
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)
        assert isinstance(schedule, LambdaLR)
        stage = self.steps.stages[self.steps.stage_of(self.trainer.global_step)]
        optimizer.zero_grad()
        for part in batch.split(stage.microbatches):
            chunk_length = self.memory.chunk_length_of(len(part.tokens))
            with self.memory.explain(self.device):
                logits = self.model(part.tokens, part.lengths, chunk_length=chunk_length).float()
                loss = functional.cross_entropy(logits, part.labels, reduction="sum")
                self.manual_backward(loss / len(batch.labels))
            self._count(part, logits.detach(), loss.detach())
        trained = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        self.grad_norm = nn.utils.clip_grad_norm_(trained, self.recipe.clip_norm, foreach=True)
        optimizer.step()
        schedule.step()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW and its learning rate over the whole run."""
        optimizer, schedule = build_optimizer(self.model, self.recipe, len(self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def take_tally(self) -> Tally:
        """What was counted since the last call; waits for the device."""
        tally = Tally(*self.sums.tolist())
        self.sums[:-1] = 0
        return tally

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the unfinished tally, so that the next row of metrics is that of an uninterrupted run."""
        checkpoint[TALLY] = self.sums.cpu()
        checkpoint[NUMBERS] = self.numbers
        checkpoint[MEMORY] = self.memory.to_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the unfinished tally back, and the choice of what is kept in memory."""
        self.memory.resume(checkpoint.get(MEMORY))
        self.sums = checkpoint[TALLY].to(self.sums)

    def _count(self, part: Batch, logits: Tensor, loss: Tensor) -> None:
        tokens = part.tokens.numel() if part.lengths is None else part.lengths.sum()
        correct = (logits.argmax(dim=1) == part.labels).sum()
        counts = [loss, correct, len(part.labels), tokens]
        for total, count in zip(self.sums, counts, strict=True):
            total += count
