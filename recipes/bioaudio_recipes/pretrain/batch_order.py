"""Which windows each micro-batch of a run holds: a function of its number, so a run can go on anywhere."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from bioaudio_data.windows import StagePlan
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler


class BatchKey(NamedTuple):
    """Names the windows of one micro-batch; the data set makes the batch from nothing else."""

    stage: int
    """Position of the stage in the schedule."""
    epochs: NDArray[np.int64]
    """(batch,) the stage's epoch in which each window is drawn."""
    indices: NDArray[np.int64]
    """(batch,) number of each window among the stage's windows."""


class BatchOrder(Sampler[BatchKey]):
    """Keys of all micro-batches of one data rank, from number `start` to the end of the last stage.

    A stage reads its windows in epochs without a break: each epoch is a permutation drawn from (seed, stage,
    epoch), and a step that an epoch does not fill takes the rest from the next. An optimizer step is cut into
    micro-batches and the ranks take them in turn, so neither changes which windows a step holds.

    Args:
        stages: in the order of training.
        seed: of the permutations.
        accumulation: micro-batches of one rank in an optimizer step.
        rank: the data rank among `world_size`: a process, or the processes that share their windows.
    """

    def __init__(
        self,
        stages: Sequence[StagePlan],
        *,
        seed: int,
        accumulation: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        for stage in stages:
            if stage.batch_size % (accumulation * world_size):
                raise ValueError(
                    f"{stage.batch_size} windows a step do not divide into {accumulation} micro-batches on "
                    f"each of {world_size} data ranks"
                )
        self.stages = tuple(stages)
        self.seed = seed
        self.accumulation = accumulation
        self.rank = rank
        self.world_size = world_size
        self.start = 0
        self._ends = np.cumsum([stage.steps for stage in stages])
        self._drawn: tuple[tuple[int, int], NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        """Micro-batches of the whole run, those before `start` included."""
        return int(self._ends[-1]) * self.accumulation

    def __iter__(self) -> Iterator[BatchKey]:
        return (self.key(microbatch) for microbatch in range(self.start, len(self)))

    def key(self, microbatch: int) -> BatchKey:
        """The windows of this rank's micro-batch number `microbatch` of the whole run."""
        step, part = divmod(microbatch, self.accumulation)
        stage = int(np.searchsorted(self._ends, step, side="right"))
        plan = self.stages[stage]
        step -= int(self._ends[stage]) - plan.steps
        size = plan.batch_size // (self.accumulation * self.world_size)
        first = step * plan.batch_size + (part * self.world_size + self.rank) * size
        epochs, places = np.divmod(np.arange(first, first + size), plan.windows)
        indices = np.empty(size, np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            indices[chosen] = self._permutation(stage, int(epoch))[places[chosen]]
        return BatchKey(stage, epochs, indices)

    def _permutation(self, stage: int, epoch: int) -> NDArray[np.int64]:
        if self._drawn is None or self._drawn[0] != (stage, epoch):
            generator = np.random.default_rng([self.seed, stage, epoch])
            self._drawn = (stage, epoch), generator.permutation(self.stages[stage].windows)
        return self._drawn[1]


class ResumableOrder(Protocol):
    """What a `ResumableLoader` follows: the keys of all batches of a run, from number `start` on."""

    seed: int
    start: int

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


class ResumableLoader(DataLoader[Any]):
    """A loader of ready-made batches that goes on exactly after the last batch it delivered.

    What worker processes have prepared ahead does not count as delivered. Lightning keeps `state_dict` in its
    checkpoints and gives it back before the first batch.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        order: ResumableOrder,
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            dataset,
            batch_size=None,
            sampler=order,
            num_workers=num_workers,
            pin_memory=pin_memory,
            worker_init_fn=_leave_signals_to_the_parent if num_workers else None,
            generator=torch.Generator().manual_seed(order.seed),
        )
        self.order = order
        self.delivered = 0

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.order.start = self.delivered
        for batch in super().__iter__():
            self.delivered += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """How many batches were delivered."""
        return {"delivered": self.delivered}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after as many batches as `state` says."""
        self.delivered = int(state["delivered"])


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C and SLURM signal all processes: workers stay, so that the run can finish its step and save.

    A second SIGTERM ends a worker, as it ends the run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))
