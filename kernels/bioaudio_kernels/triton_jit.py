"""`triton.jit` for code that may be imported under a typechecking import hook."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import triton


def jit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """`triton.jit` of the bare function: Triton reads its source and globals, which a wrapper hides."""
    if function is None:
        return lambda function: jit(function, **options)
    return triton.jit(inspect.unwrap(function), **options)
