"""Time of one run on a device."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

Clock = Callable[[Callable[[], object]], float]
"""Runs a function and gives its milliseconds."""

FLUSHED_BYTES = 2**28
"""More than any level-2 cache holds."""
FLUSHES = 24
"""Enough to keep the GPU busy until the host has queued what follows: the host is not to be timed."""


def clock_for(device: str) -> Clock:
    """The clock of a kind of device."""
    return wall_milliseconds if device == "cpu" else ColdCacheClock(device)


def wall_milliseconds(run: Callable[[], object]) -> float:
    """Milliseconds of a function on this clock's wall."""
    begin = time.perf_counter()
    run()
    return (time.perf_counter() - begin) * 1e3


class ColdCacheClock:
    """GPU time between two events, the level-2 cache flushed before, as triton.testing.do_bench does."""

    def __init__(self, device: str = "cuda") -> None:
        self.scratch = torch.empty(FLUSHED_BYTES, dtype=torch.uint8, device=device)

    def __call__(self, run: Callable[[], object]) -> float:
        """Milliseconds of a function's work on the GPU."""
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        for _ in range(FLUSHES):
            self.scratch.zero_()
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)
