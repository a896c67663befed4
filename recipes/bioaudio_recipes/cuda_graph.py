"""CUDA graphs: the host launches what it has recorded once, all kernels together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

Result = TypeVar("Result")
WARM_UPS = 3
"""Runs before the recording: they compile kernels and choose algorithms, which a recording cannot."""


class Record(Protocol):
    """Makes of a function without arguments one that does the same again, with the same tensors."""

    def __call__(self, run: Callable[[], Result]) -> Callable[[], Result]: ...


def cuda_graph(run: Callable[[], Result]) -> Callable[[], Result]:
    """Record a function's kernels; what is returned launches them again, and gives the same tensors anew."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on with what a recording must not do, such as to pin the memory of the next batch.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = run()

    def replay() -> Result:
        graph.replay()
        return result

    return replay
