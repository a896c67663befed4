"""What a run says of its training steps: rows of metrics and the progress bar."""

from __future__ import annotations

import bisect
import math
import time
from collections.abc import Sequence
from itertools import accumulate

from bioaudio_data.windows import StagePlan
from lightning.pytorch import LightningModule, Trainer
from tqdm import tqdm

from bioaudio_recipes.optimisation import learning_rate_at
from bioaudio_recipes.pretrain.language_model import LanguageModel
from bioaudio_recipes.pretrain.next_token_loss import per_target
from bioaudio_recipes.training.metrics_log import MetricsLog
from bioaudio_recipes.training.peak_memory import peak_memory_gb
from bioaudio_recipes.training.step_callback import StepCallback


def train_columns(unit: str) -> list[str]:
    """Columns of metrics.csv that `StepLog` fills; `unit` is that of the objective."""
    measured = ["loss", f"bits_per_{unit}", "perplexity", "length", "batch_size", "tokens"]
    return [f"train/{name}" for name in [*measured, "tokens_per_second", "lr", "grad_norm", "peak_memory_gb"]]


class StepLog(StepCallback):
    """Logs every `every` steps and at the last step: losses are weighted means since the row before.

    Args:
        metrics: takes the rows.
        stages: the plan of the run.
        tokens_per_step: tokens of every optimizer step.
        every: steps between two rows.
        progress: whether to show a progress bar on stderr.
    """

    def __init__(
        self,
        metrics: MetricsLog,
        stages: Sequence[StagePlan],
        tokens_per_step: int,
        *,
        every: int,
        progress: bool = True,
    ) -> None:
        self.metrics = metrics
        self.stages = tuple(stages)
        self.ends = list(accumulate(stage.steps for stage in stages))
        self.tokens_per_step = tokens_per_step
        self.every = every
        self.progress = progress and metrics.active
        self.bar: tqdm | None = None
        self._clock = (0, 0.0)
        self._outside = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the bar and the clock."""
        step, total = trainer.global_step, self.ends[-1]
        self.bar = tqdm(total=total, initial=step, unit="step", desc="pretrain", disable=not self.progress)
        self._clock = (step, time.perf_counter())

    def pause(self, seconds: float) -> None:
        """Leave `seconds` out of the throughput: they went into something else than training."""
        self._outside += seconds

    def on_step_end(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        """Move the bar; log where a row is due."""
        assert self.bar is not None
        self.bar.update()
        if step % self.every and step != self.ends[-1]:
            return
        assert isinstance(module, LanguageModel)
        weighted_nll, weight, nll, targets = module.take_interval()
        if not math.isfinite(weighted_nll):
            raise ValueError(
                f"the loss is {weighted_nll} after step {step}: training has diverged; lower "
                "--optimizer.learning_rate and start again with another --out"
            )
        stage = bisect.bisect_left(self.ends, step)
        length, speed = self.stages[stage].length, self._tokens_per_second(step)
        loss = weighted_nll / weight if weight else 0.0
        self.bar.set_postfix_str(
            f"stage {stage + 1}/{len(self.stages)}, length {length}, loss {loss:.4f}, "
            f"{speed:.3g} {module.objective.unit}s/s"
        )
        values = {
            "loss": loss,
            **(per_target(nll / targets, module.objective.unit) if targets else {}),
            "length": length,
            "batch_size": self.stages[stage].batch_size,
            "tokens": step * self.tokens_per_step,
            "tokens_per_second": speed,
            "lr": learning_rate_at(step - 1, self.ends[-1], module.recipe),
            "grad_norm": module.grad_norm.item(),
            "peak_memory_gb": peak_memory_gb(module.device),
        }
        self.metrics.log(step, {f"train/{name}": value for name, value in values.items()})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.close()

    def _tokens_per_second(self, step: int) -> float:
        """Throughput since the last row."""
        (before, since), now = self._clock, time.perf_counter()
        seconds = now - since - self._outside
        self._clock, self._outside = (step, now), 0.0
        return (step - before) * self.tokens_per_step / max(seconds, 1e-9)
