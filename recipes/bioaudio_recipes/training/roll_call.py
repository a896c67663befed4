"""No run on several processes waits for ever: who fails, or does not come, is named."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store
from torch.optim import Optimizer

GRACE = timedelta(seconds=10)
"""How long the others have, after a failed collective, to say that they have seen it too."""
YES, NO, LEFT_ALONE, FAILED = "yes", "no", "left alone", "failed: "
"""What a rank answers. The last two by one that is about to leave, since a collective failed or something of
its own did."""


class LostRank(ConnectionError):
    """Another rank has died, hangs or failed; the message names it."""


class RollCall(Callback):
    """Calls the roll before each optimizer step, and when something has failed; to be the last callback.

    The processes answer in the store through which they found each other, so that no device, and no other
    process, can keep the call from ending. Where that store is gone, so is rank 0, which holds it.

    Args:
        timeout: how long to wait for the others.
    """

    def __init__(self, timeout: timedelta) -> None:
        self.timeout = timeout
        self.calls = 0

    def any_rank(self, decision: bool) -> bool:
        """Whether this or another rank says yes, once all have been asked the same; waits for no device.

        Raises:
            LostRank: one of them does not answer in time, or has failed.
        """
        if not dist.is_initialized():
            return decision
        self.calls += 1
        answers = call_roll(self.calls, YES if decision else NO, self.timeout)
        _check(answers, f"did not come to the next step within {_seconds(self.timeout)}")
        return YES in answers

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Call the roll before anything of the step waits for a device, which may be waiting for a rank."""
        self.any_rank(False)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say whose fault a failed collective is; of any other failure, tell the others the reason.

        Leaves by raising if it was another's: what Lightning would do now waits for the device.
        """
        if isinstance(exception, LostRank):
            raise exception
        if not dist.is_initialized() or not isinstance(exception, Exception):
            return
        self.calls += 1  # the one that the others call next
        if _is_of_a_collective(exception):
            grace = min(self.timeout, GRACE)
            _check(call_roll(self.calls, LEFT_ALONE, grace), f"no longer answers within {_seconds(grace)}")
        else:
            reason = str(exception).partition("\n")[0]
            call_roll(self.calls, f"{FAILED}{type(exception).__name__}: {reason}", GRACE)


def call_roll(number: int, answer: str, timeout: timedelta) -> list[str | None]:
    """Answer, and wait until every rank has, or one has failed; returns the answers by rank, None: missing.

    Args:
        number: of the call, one more than the last.
        answer: of this rank.
        timeout: how long to wait for all of them together.
    """
    rank, size = dist.get_rank(), dist.get_world_size()
    names = [f"{number} {other}" for other in range(size)]
    store = PrefixStore("bioaudio roll", _get_default_store())
    try:
        store.set(names[rank], answer)
        if store.add(f"{number} present", 1) == size or answer.startswith(FAILED):
            store.set(f"{number} over", "")
        with suppress(dist.DistStoreError):
            store.wait([f"{number} over"], timeout)
        answers = [store.get(name).decode() if store.check([name]) else None for name in names]
        if None not in answers:  # so all have read the answers before these
            for trace in (rank, *(("present", "over") if rank == 0 else ())):
                store.delete_key(f"{number - 1} {trace}")
    except dist.DistNetworkError:
        return [None, *[LEFT_ALONE] * (size - 1)]
    return answers


def _check(answers: list[str | None], absence: str) -> None:
    """Raise LostRank for the ranks that have failed, or else for those that are absent."""
    failed = [(rank, answer) for rank, answer in enumerate(answers) if answer and answer.startswith(FAILED)]
    absent = [rank for rank, answer in enumerate(answers) if answer is None]
    if failed:
        rank, reason = failed[0]
        raise LostRank(f"rank {rank} of {len(answers)} {reason}")
    if absent:
        names = f"rank {absent[0]}" if len(absent) == 1 else f"ranks {', '.join(map(str, absent))}"
        raise LostRank(
            f"{names} of {len(answers)} {absence}: died, or hangs (--trainer.timeout_seconds); the same "
            "command goes on from the last checkpoint"
        )


def _is_of_a_collective(exception: Exception) -> bool:
    """Whether torch.distributed failed, in an error of its own or, on the CPU, one that names gloo's code."""
    error = exception.__cause__ if isinstance(exception, ConnectionError) else exception
    return isinstance(error, dist.DistError) or (type(error) is RuntimeError and "/gloo/" in str(error))


def _seconds(time: timedelta) -> str:
    return f"{time.total_seconds():g} s"
