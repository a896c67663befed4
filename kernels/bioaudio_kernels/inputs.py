"""Checks of what the public ops are given, beside shapes: dtypes and devices."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

_REAL = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_COMPLEX = (torch.complex64, torch.complex128)


def check_inputs(op: str, tensors: Mapping[str, Tensor | None], may_be_complex: Collection[str] = ()) -> None:
    """Check that every tensor is floating (or complex, where that is allowed), and all lie on one device.

    Args:
        op: name of the op, for messages.
        tensors: argument name -> tensor; None is skipped.
        may_be_complex: names of arguments that may be complex64 or complex128 too.

    Raises:
        ValueError: naming the first argument that does not fit, what it is and what is allowed.
    """
    first, device = "", None
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        dtype = tensor.dtype
        if dtype not in _REAL and not (dtype in _COMPLEX and name in may_be_complex):
            allowed = _REAL + _COMPLEX if name in may_be_complex else _REAL
            raise ValueError(f"{op}: {name} is {dtype_name(dtype)}, allowed are {_list(allowed)}")
        if device is None:
            first, device = name, tensor.device
        if tensor.device != device:
            raise ValueError(
                f"{op}: {name} lies on {tensor.device}, but {first} lies on {device}; move them to one device"
            )


def dtype_name(dtype: torch.dtype) -> str:
    """ "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")


def _list(dtypes: Collection[torch.dtype]) -> str:
    *others, last = map(dtype_name, dtypes)
    return f"{', '.join(others)} and {last}"
