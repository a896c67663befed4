"""A Lightning callback that counts in optimizer steps, whatever the gradient accumulation."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class StepCallback(Callback):
    """Calls `on_step_end` after each optimizer step; Lightning's own hook comes after each micro-batch."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Pass on the last micro-batch of each step."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.on_step_end(trainer, pl_module, trainer.global_step)

    def on_step_end(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        """Called with the number of optimizer steps that are done."""
