"""What fine-tuning says of its training steps: rows of metrics and the progress bar."""

from __future__ import annotations

import math
import time

from lightning.pytorch import LightningModule, Trainer
from tqdm import tqdm

from bioaudio_recipes.finetune.training_module import ClassifierModule
from bioaudio_recipes.optimisation import learning_rate_at
from bioaudio_recipes.training.metrics_log import MetricsLog
from bioaudio_recipes.training.peak_memory import peak_memory_gb
from bioaudio_recipes.training.step_callback import StepCallback

MEASURED = (
    "loss",
    "accuracy",
    "length",
    "batch_size",
    "tokens",
    "tokens_per_second",
    "lr",
    "grad_norm",
    "peak_memory_gb",
)
TRAIN_COLUMNS = tuple(f"train/{name}" for name in MEASURED)


class StepLog(StepCallback):
    """Logs every `every` steps and at the last step; loss and accuracy are means since the row before.

    Args:
        metrics: takes the rows.
        every: steps between two rows.
        progress: whether to show a progress bar on stderr.
    """

    def __init__(self, metrics: MetricsLog, *, every: int, progress: bool) -> None:
        self.metrics = metrics
        self.every = every
        self.progress = progress
        self.bar: tqdm | None = None
        self._clock = (0.0, 0.0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the bar and the clock."""
        assert isinstance(pl_module, ClassifierModule)
        total, done = len(pl_module.steps), trainer.global_step
        self.bar = tqdm(total=total, initial=done, unit="step", desc="finetune", disable=not self.progress)
        self._clock = (pl_module.sums[-1].item(), time.perf_counter())

    def pause(self, seconds: float) -> None:
        """Leave `seconds` out of the throughput: they went into something else than training."""
        tokens, since = self._clock
        self._clock = (tokens, since + seconds)

    def on_step_end(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        """Move the bar; log where a row is due."""
        assert isinstance(module, ClassifierModule)
        assert self.bar is not None
        self.bar.update()
        if step % self.every == 0 or step == len(module.steps):
            self._log_row(module, step, self.bar)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the bar as it stands."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the bar as it stands."""
        self._close()

    def _log_row(self, module: ClassifierModule, step: int, bar: tqdm) -> None:
        tally = module.take_tally()
        if not math.isfinite(tally.loss):
            raise ValueError(
                f"the loss is {tally.loss} after step {step}: training has diverged; lower "
                "--optimizer.learning_rate and start again with another --out"
            )
        stage = module.steps.stages[module.steps.stage_of(step - 1)]
        before, now = self._clock, (tally.tokens, time.perf_counter())
        self._clock = now
        values = {
            "loss": tally.loss / tally.examples,
            "accuracy": tally.correct / tally.examples,
            "length": stage.length,
            "batch_size": stage.batch_size,
            "tokens": tally.tokens,
            "tokens_per_second": (now[0] - before[0]) / max(now[1] - before[1], 1e-9),
            "lr": learning_rate_at(step - 1, len(module.steps), module.recipe),
            "grad_norm": module.grad_norm.item(),
            "peak_memory_gb": peak_memory_gb(module.device),
        }
        self.metrics.log(step, {f"train/{name}": value for name, value in values.items()})
        bar.set_postfix_str(
            f"length {stage.length}, loss {values['loss']:.4f}, accuracy {values['accuracy']:.1%}, "
            f"{values['tokens_per_second']:.3g} tokens/s"
        )

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
