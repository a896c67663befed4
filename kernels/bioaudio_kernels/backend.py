"""Which implementation runs an op: one rule for all ops, and the reason when a backend cannot be given."""

from __future__ import annotations

import importlib.util
import os
import warnings
from typing import Literal, get_args

import torch
from torch import Tensor

Backend = Literal["auto", "reference", "cpu", "triton"]
BACKENDS: tuple[str, ...] = get_args(Backend)
# Looked up once: torch.compile cannot trace a look-up.
_INSTALLED = frozenset(name for name in ("numba", "triton") if importlib.util.find_spec(name) is not None)
_HALF_AND_SINGLE = (torch.float32, torch.bfloat16, torch.float16, torch.complex64)
_DOUBLE = (torch.float64, torch.complex128)


def available_backends() -> dict[str, str | None]:
    """Why each backend cannot run on this machine; None where it can."""
    return {"reference": None, "cpu": _missing_package("numba"), "triton": _why_no_triton()}


def resolve_backend(op: str, requested: str, *tensors: Tensor | None) -> str:
    """The backend that runs `op` on these tensors: "reference", "cpu" or "triton".

    "auto" gives Triton on CUDA, the compiled CPU path on the CPU, and the reference for float64 and
    complex128. Where the fast backend of a device is missing, "auto" warns and gives the reference.

    Args:
        op: name of the op, for messages.
        requested: one of `BACKENDS`.
        tensors: every floating tensor argument of the op; None is skipped. The first decides the device.

    Raises:
        ValueError: if `requested` is unknown or cannot serve these tensors, or if they lie on two devices.
    """
    if requested not in BACKENDS:
        raise ValueError(f"{op}: backend={requested!r} is unknown; use one of {', '.join(BACKENDS)}")
    given = [tensor for tensor in tensors if tensor is not None]
    device = given[0].device
    for tensor in given:
        if tensor.device != device:
            raise ValueError(f"{op}: tensors lie on {device} and {tensor.device}; move them to one device")
    if requested == "reference":
        return requested
    dtypes = [tensor.dtype for tensor in given]
    if requested == "auto":
        return _automatic(op, device.type, dtypes)
    reason = _why_not(requested, device.type, dtypes)
    if reason is not None:
        raise ValueError(f"{op}: backend={requested!r} {reason}; use backend='auto' or 'reference'")
    return requested


def _automatic(op: str, device: str, dtypes: list[torch.dtype]) -> str:
    if any(dtype in _DOUBLE for dtype in dtypes):
        return "reference"
    fast = "triton" if device == "cuda" else "cpu"
    reason = _why_not(fast, device, dtypes)
    if reason is None:
        return fast
    _warn_slow(f"{op}: backend {fast!r} {reason}; running the slow reference instead")
    return "reference"


def _why_not(backend: str, device: str, dtypes: list[torch.dtype]) -> str | None:
    """Why `backend` cannot serve tensors of this device and these dtypes; None if it can."""
    for dtype in dtypes:
        if dtype not in _HALF_AND_SINGLE:
            return f"computes in float32 and cannot take {str(dtype).removeprefix('torch.')}"
    if backend == "cpu" and device != "cpu":
        return f"takes tensors on the CPU, not on {device}"
    if backend == "triton" and device != "cuda" and not (device == "cpu" and _triton_interpreted()):
        return f"takes tensors on a CUDA GPU, not on {device} (TRITON_INTERPRET=1 allows the CPU, for tests)"
    missing = _missing_package("numba" if backend == "cpu" else "triton")
    return f"is not available: {missing}" if missing else None


def _triton_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def _warn_slow(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def _why_no_triton() -> str | None:
    missing = _missing_package("triton")
    if missing is not None:
        return missing
    if not torch.cuda.is_available() and not _triton_interpreted():
        return "torch sees no CUDA GPU"
    return None


def _missing_package(name: str) -> str | None:
    if name in _INSTALLED:
        return None
    return f"package {name} is not installed (pip install {name})"
