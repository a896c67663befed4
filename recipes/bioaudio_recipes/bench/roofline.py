"""The least time that an operation can take on a device, from what it must move and compute."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bioaudio_recipes.bench.clock import clock_for

SPECIAL_FUNCTIONS_PER_CLOCK = 16
"""Exponentials of one multiprocessor of an NVIDIA GPU (compute capability 7.0 to 9.0) in a clock."""
COPIED_BYTES = {"cpu": 2**27, "cuda": 2**30}
COPIES = 7


@dataclass(frozen=True, kw_only=True)
class Work:
    """What no implementation can avoid."""

    bytes_moved: int
    """Read and written: each input and each result once."""
    exponentials: int = 0


@dataclass(frozen=True, kw_only=True)
class Device:
    """What a device can do in a second."""

    bytes_per_second: float
    """Of a large copy, read and written bytes counted, as measured."""
    exponentials_per_second: float | None
    """None where it is not known: on a CPU."""

    def least_ms(self, work: Work) -> float:
        """The longer of the time for the bytes and of that for the exponentials."""
        bytes_ms = work.bytes_moved / self.bytes_per_second * 1e3
        if self.exponentials_per_second is None:
            return bytes_ms
        return max(bytes_ms, work.exponentials / self.exponentials_per_second * 1e3)


def measure_device(device: str) -> Device:
    """Copy a large tensor, and ask a GPU for its multiprocessors and its clock."""
    source = torch.ones(COPIED_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    clock = clock_for(device)
    milliseconds = statistics.median(clock(lambda: target.copy_(source)) for _ in range(COPIES))
    exponentials = None
    if device == "cuda":
        properties = torch.cuda.get_device_properties(device)
        kilohertz = getattr(properties, "clock_rate", None)  # not in every torch
        if kilohertz:
            per_clock = SPECIAL_FUNCTIONS_PER_CLOCK * properties.multi_processor_count
            exponentials = per_clock * kilohertz * 1e3
    return Device(
        bytes_per_second=2 * source.nbytes / milliseconds * 1e3, exponentials_per_second=exponentials
    )


def size_of(tensors: Sequence[Tensor]) -> int:
    """Bytes of their values, each counted once wherever they lie."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def operation_work(inputs: Sequence[Tensor], output: Tensor, exponentials: int = 0) -> tuple[Work, Work]:
    """Work of a forward pass, and of a forward and a backward pass.

    The forward pass reads the inputs and writes the output. The backward pass reads the inputs and the
    output's gradient, writes the inputs' gradients, and computes the exponentials once more: they are too
    many to keep.

    Args:
        inputs: all of them get gradients.
        output: or its gradient, which is of the same size.
        exponentials: of a forward pass.
    """
    read, written = size_of(inputs), size_of([output])
    return (
        Work(bytes_moved=read + written, exponentials=exponentials),
        Work(bytes_moved=3 * read + 2 * written, exponentials=2 * exponentials),
    )
