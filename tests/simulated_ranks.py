"""Ranks that share one sequence, as threads of one process: one runs until it waits for the others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class SimulatedRanks:
    """One of `size` ranks; see `Ranks` of the kernels."""

    def __init__(self, rank: int, size: int, meeting: threading.Barrier, turn: Any, table: list[Any]) -> None:
        self.rank = rank
        self.size = size
        self._meeting, self._turn, self._table = meeting, turn, table

    def gather(self, tensor: Tensor) -> Tensor:
        self._table[self.rank] = tensor.detach().clone()
        self._meet()
        every = torch.stack(self._table)
        self._meet()
        return every

    def _meet(self) -> None:
        self._turn.release()
        try:
            self._meeting.wait(timeout=60)
        finally:
            self._turn.acquire()


def on_ranks(size: int, function: Callable[[SimulatedRanks], T]) -> list[T]:
    """What `function` gives on each rank, in order. If one raises, so do the others, and then this."""
    meeting, turn, table = threading.Barrier(size), threading.Lock(), [None] * size

    def run(rank: int) -> T:
        with turn:
            try:
                return function(SimulatedRanks(rank, size, meeting, turn, table))
            except Exception:
                meeting.abort()
                raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, rank) for rank in range(size)]
    failures = [error for error in (future.exception() for future in futures) if error is not None]
    for error in sorted(failures, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]
