"""No run on several processes waits for ever: who does not come is named."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

GRACE = timedelta(seconds=10)
"""How long the others have, after a failure, to say that they have seen it too."""


class RollCall(Callback):
    """Calls the roll before each optimizer step, and when something has failed; to be the last callback.

    The processes answer in the store through which they found each other, so that no device, and no other
    process, can keep the call from ending. Where that store is gone, so is rank 0, which holds it.

    Args:
        timeout: how long to wait for the others before a step.
    """

    def __init__(self, timeout: timedelta) -> None:
        self.timeout = timeout
        self.calls = 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Call the roll before the first micro-batch of a step."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.calls += 1
            absent = call_roll(f"step {self.calls}", self.timeout, forget=f"step {self.calls - 1}")
            if absent:
                raise ConnectionError(_explain(absent, "did not come to the next step", self.timeout))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say whose fault a failed collective is.

        Leaves by raising: what Lightning would do now waits for the device, which waits for the other.
        """
        failed = isinstance(exception, RuntimeError | ConnectionError)
        if not failed or isinstance(exception, torch.OutOfMemoryError) or not dist.is_initialized():
            return
        grace = min(self.timeout, GRACE)
        absent = call_roll("failure", grace)
        if absent:
            raise ConnectionError(_explain(absent, "no longer answers", grace)) from exception


def call_roll(name: str, timeout: timedelta, forget: str | None = None) -> list[int]:
    """Wait until every process calls the roll of this name; returns the ranks that have not, after `timeout`.

    Args:
        name: never used before.
        timeout: how long to wait for all of them together.
        forget: an earlier call, at which all were present, whose traces are to go.
    """
    rank, ranks = dist.get_rank(), range(dist.get_world_size())
    store = PrefixStore("bioaudio roll", _get_default_store())
    try:
        store.set(f"{name} {rank}", "here")
        try:
            store.wait([f"{name} {other}" for other in ranks], timeout)
        except dist.DistStoreError:
            return [other for other in ranks if not store.check([f"{name} {other}"])]
        if forget is not None:
            store.delete_key(f"{forget} {rank}")
    except dist.DistNetworkError:
        return [0]
    return []


def _explain(ranks: list[int], failing: str, timeout: timedelta) -> str:
    names = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
    return (
        f"{names} of {dist.get_world_size()} {failing} within {timeout.total_seconds():g} s: died, or hangs "
        "(--trainer.timeout_seconds); the same command goes on from the last checkpoint"
    )
