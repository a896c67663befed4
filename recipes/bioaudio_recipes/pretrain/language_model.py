"""The Lightning module of pretraining: one loss per optimizer step, whatever it is cut into."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer

from bioaudio_mamba import ContextGroup
from bioaudio_mamba import LanguageModel as Network
from bioaudio_recipes.cuda_graph import Record, RecordingError
from bioaudio_recipes.optimisation import OptimizerConfig, build_optimizer, rescale_and_clip, update_average
from bioaudio_recipes.pretrain.next_token_loss import TokenSums
from bioaudio_recipes.pretrain.objective import Objective
from bioaudio_recipes.training.checkpoints import NUMBERS
from bioaudio_recipes.training.context_mesh import make_context_group
from bioaudio_recipes.training.memory import MEMORY, MemoryPlanner, TrainingMemory
from bioaudio_recipes.training.recorded_pass import RecordedPass

INTERVAL = "bioaudio_interval"


class LanguageModel(LightningModule):
    """Trains a network to predict each next token.

    Backward passes run on sums of losses divided by the step's nominal number of tokens. Before clipping, all
    gradients are rescaled once, from that number to the weight of the targets that the step predicted over
    all micro-batches and ranks: the loss of a step is a mean over its targets however it was cut, and a step
    without any has no gradient instead of NaN.

    Args:
        model: what is trained.
        optimizer: how.
        objective: what batches hold, and what is predicted of them.
        total_steps: optimizer steps of the whole run.
        tokens_per_step: tokens of an optimizer step, over all micro-batches and ranks.
        tokens_per_microbatch: tokens of a batch that fall to this process.
        context: processes that share their windows, each with a part of every window.
        timeout: how long they wait for each other.
        numbers: settings that the run's numbers depend on, kept in checkpoints.
        planner: chooses how activations are kept, once the device is known; None keeps them all.
        record: records a pass where all activations are kept (see `RecordedPass`); None runs each anew.
    """

    def __init__(
        self,
        model: Network,
        optimizer: OptimizerConfig,
        objective: Objective,
        *,
        total_steps: int,
        tokens_per_step: int,
        tokens_per_microbatch: int,
        context: int = 1,
        timeout: timedelta = timedelta(minutes=30),
        numbers: Mapping[str, Any] | None = None,
        planner: MemoryPlanner | None = None,
        record: Record | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.averaged = None if optimizer.ema_decay is None else deepcopy(model).requires_grad_(False)
        self.recipe = optimizer
        self.objective = objective
        self.total_steps = total_steps
        self.tokens_per_step = tokens_per_step
        self.tokens_per_microbatch = tokens_per_microbatch
        self.context = context
        self.timeout = timeout
        self.context_group: ContextGroup | None = None
        self.numbers = dict(numbers or {})
        self.memory = TrainingMemory(planner)
        self.recorded = None if record is None else RecordedPass(self._sums, model.parameters(), record)
        self.step_sums = torch.zeros(4, dtype=torch.float64)
        self.interval_sums = torch.zeros(4, dtype=torch.float64)
        self.grad_norm = torch.zeros(())

    @property
    def result(self) -> Network:
        """The model that is validated and exported: the averaged one where an average is kept."""
        return self.model if self.averaged is None else self.averaged

    def setup(self, stage: str) -> None:
        """Find the processes of the same windows, once all are connected."""
        device = self.trainer.strategy.root_device  # where the module is going to be
        self.context_group = make_context_group(self.context, device, self.timeout)

    def on_fit_start(self) -> None:
        """Choose how activations are kept."""
        self.memory.settle(self.trainer, self.device, self.model.backbone)

    def on_fit_end(self) -> None:
        """Let go of the recorded pass and its memory."""
        self.recorded = None

    def on_train_start(self) -> None:
        """Bring the sums to the device; as buffers, DDP would overwrite them with those of rank 0."""
        self.step_sums = self.step_sums.to(self.device)
        self.interval_sums = self.interval_sums.to(self.device)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Sum of weighted losses over one micro-batch, per nominal token."""
        recorded = self.recorded if self.memory.plan.mode == "full" else None
        with self.memory.explain(self.device):
            try:
                sums = self._sums(batch) if recorded is None else TokenSums(*recorded(batch))
            except RecordingError as error:
                raise RecordingError(f"{error}; --trainer.cuda_graph false trains without one") from error
        self.step_sums += torch.stack(sums).detach()
        return sums.weighted_nll / self.tokens_per_microbatch

    def _sums(self, batch: Any) -> TokenSums:
        return self.objective.sums(self.model, batch, self.memory.chunk_length_of, self.context_group)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """The backward pass, where most memory is needed."""
        with self.memory.explain(self.device):
            super().backward(loss, *args, **kwargs)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Turn the gradients of the step's sum into those of its mean, then clip."""
        sums = self.step_sums
        if self.trainer.world_size > 1:
            dist.all_reduce(sums)  # Lightning's `reduce` would wait for the device
        weight = sums[1]
        scale = torch.where(weight > 0, self.tokens_per_step / weight, 0.0)
        self.grad_norm = rescale_and_clip(self.model.parameters(), scale, self.recipe.clip_norm)
        self.interval_sums = self.interval_sums + sums
        self.step_sums = torch.zeros_like(self.step_sums)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step of AdamW, and of the average."""
        super().optimizer_step(*args, **kwargs)
        if self.averaged is not None and self.recipe.ema_decay is not None:
            update_average(self.averaged, self.model, self.recipe.ema_decay, self.global_step)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW, its learning rate stepped once per optimizer step."""
        optimizer, schedule = build_optimizer(self.model, self.recipe, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def take_interval(self) -> list[float]:
        """The sums of `TokenSums` over all steps since the last call; waits for the device."""
        sums = self.interval_sums.tolist()
        self.interval_sums = torch.zeros_like(self.interval_sums)
        return sums

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the unfinished interval, so that the next row of metrics is that of an uninterrupted run."""
        checkpoint[INTERVAL] = self.interval_sums.cpu()
        checkpoint[NUMBERS] = self.numbers
        checkpoint[MEMORY] = self.memory.to_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the unfinished interval back, and the choice of what is kept in memory."""
        self.memory.resume(checkpoint.get(MEMORY))
        self.interval_sums = checkpoint[INTERVAL].to(self.interval_sums)
