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


class RecordingError(RuntimeError):
    """A function does what cannot be recorded."""


def cuda_graph(run: Callable[[], Result]) -> Callable[[], Result]:
    """Record a function's kernels; what is returned launches them again, and gives the same tensors anew.

    Raises:
        RecordingError: the function waits for the device, or uses a stream that is not part of the recording.
        torch.OutOfMemoryError: the recording does not fit.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on with what a recording must not do, such as to pin the memory of the next batch.
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = run()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if isinstance(error.__context__, torch.OutOfMemoryError):  # then the recording ends in an error too
            raise error.__context__ from None
        reason = str(error).partition("\n")[0]
        raise RecordingError(f"this cannot be recorded as a CUDA graph: {reason}") from error

    def replay() -> Result:
        graph.replay()
        return result

    return replay
