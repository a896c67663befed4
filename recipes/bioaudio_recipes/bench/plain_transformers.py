"""transformers' Mamba in plain PyTorch, whether or not mamba_ssm is installed beside it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

KERNELS = (
    "causal_conv1d_fn",
    "causal_conv1d_update",
    "mamba_inner_fn",
    "mamba_selective_scan",
    "mamba_selective_state_update",
)


def modeling() -> ModuleType:
    """The module with its Mamba."""
    return importlib.import_module("transformers.models.mamba.modeling_mamba")


@contextmanager
def plain_kernels() -> Iterator[ModuleType]:
    """Its Mamba on its own PyTorch functions: it wraps them to call mamba_ssm where that can be imported."""
    module = modeling()
    wrapped = {name: getattr(module, name) for name in KERNELS}
    try:
        for name, function in wrapped.items():
            setattr(module, name, inspect.unwrap(function))
        yield module
    finally:
        for name, function in wrapped.items():
            setattr(module, name, function)
