"""Leaving a run cleanly: on a signal or when its time is up, after a whole step and with a checkpoint."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from bioaudio_recipes.training.checkpoints import CheckpointFolder
from bioaudio_recipes.training.metrics_log import MetricsLog
from bioaudio_recipes.training.roll_call import RollCall
from bioaudio_recipes.training.step_callback import StepCallback

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C, the usual request to end, and the one that SLURM can be told to send some time before."""


class SaveAndStop(StepCallback):
    """Saves every `every` steps, at the last step, and at the first step after a signal or once time is up.

    A second signal ends the run at once.

    Args:
        folder: where checkpoints go.
        metrics: brought to disk before each checkpoint, so that no row before it can be missing.
        roll: asks the other ranks whether one of them has to stop.
        total_steps: the run's last step.
        every: optimizer steps from one checkpoint to the next.
        max_minutes: time from the making of this object after which to save and stop, or None.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        metrics: MetricsLog,
        roll: RollCall,
        total_steps: int,
        every: int,
        max_minutes: float | None = None,
    ) -> None:
        self.folder = folder
        self.metrics = metrics
        self.roll = roll
        self.total_steps = total_steps
        self.every = every
        self.deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self.step = 0
        """Optimizer steps done."""
        self.received: signal.Signals | None = None
        self._earlier_handlers: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals, which Lightning would answer in the middle of a step."""
        self.step = trainer.global_step
        self._earlier_handlers = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def on_step_end(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        """Save if it is time to, and stop if asked to."""
        self.step = step
        due = self.received is not None or (self.deadline is not None and time.monotonic() > self.deadline)
        stop = self.roll.any_rank(due)
        if stop or step % self.every == 0 or step == self.total_steps:
            self.metrics.flush()
            self.folder.save(trainer, step)
        if stop:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        self._give_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._give_back()

    def leave_if_told_to(self) -> None:
        """Once everything is written: leave as the signal asked for, which a finished time does not.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: with code 143 after SIGTERM, 138 after SIGUSR1.
        """
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is not None:
            raise SystemExit(128 + self.received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._earlier_handlers.items():
            signal.signal(number, handler)
        self._earlier_handlers = {}
