"""Memory that a forward pass keeps for the backward pass, and the most that a pass holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def peak_bytes(run: Callable[[], object]) -> int:
    """The most GPU memory that is held while `run` runs, beyond what was held before."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def kept_bytes(forward: Callable[[], object], inputs: Sequence[Tensor], device: str) -> int:
    """What a forward pass adds to memory and leaves there as long as its result lives, the result included.

    On a GPU the allocator says; on a CPU it is the storage of all that autograd saves and of the result,
    without that of `inputs`.
    """
    if device == "cpu":
        return _saved_bytes(forward, inputs)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    result = forward()
    kept = torch.cuda.memory_allocated() - before
    del result
    return kept


def physical_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _saved_bytes(forward: Callable[[], object], inputs: Sequence[Tensor]) -> int:
    given = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    # Tensors, not sizes: their storages must live on, so that no address is used twice.
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    storages = [tensor.untyped_storage() for tensor in (*saved, result) if isinstance(tensor, Tensor)]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    return sum(size for address, size in sizes.items() if address not in given)
