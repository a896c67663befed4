"""From a continuous diagonal system h' = A h + B x to the steps of `lti_scan`."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from bioaudio_kernels.backend import Backend, resolve_backend
from bioaudio_kernels.differentiable import register_autograd
from bioaudio_kernels.shapes import check_shapes


def discretize_zoh(
    A: Inexact[Tensor, "d_inner d_state"],
    B: Inexact[Tensor, "d_inner d_state"],
    dt: Float[Tensor, " d_inner"] | Float[Tensor, "d_inner d_state"],
    *,
    backend: Backend = "auto",
) -> tuple[Inexact[Tensor, "d_inner d_state"], Inexact[Tensor, "d_inner d_state"]]:
    """Zero-order hold: x is constant during a step (S4D, arXiv 2206.11893, section 3.2).

        log_decay = dt A,    B_bar = (exp(dt A) - 1) / A * B

    At A = 0 it is the limit dt * B, and close to 0 nothing cancels. Differentiable, once.

    Args:
        A: diagonal of the state matrix, real or complex.
        B: input map, real or complex; complex only if A is.
        dt: step size, one per channel or one per state.
        backend: "auto", "reference", "cpu" or "triton"; see `resolve_backend`.

    Returns:
        log_decay and B_bar, as `lti_scan` takes them.

    Raises:
        ValueError: if shapes or dtypes do not fit each other, or the backend cannot serve these tensors.
    """
    dt = _step_per_state("discretize_zoh", A, B, dt)
    chosen = resolve_backend("discretize_zoh", backend, A, B, dt)
    return torch.ops.bioaudio.discretize_zoh.default(*_in_one_precision(A, B, dt), chosen)


def discretize_bilinear(
    A: Inexact[Tensor, "d_inner d_state"],
    B: Inexact[Tensor, "d_inner d_state"],
    dt: Float[Tensor, " d_inner"] | Float[Tensor, "d_inner d_state"],
) -> tuple[Inexact[Tensor, "d_inner d_state"], Inexact[Tensor, "d_inner d_state"]]:
    """Bilinear transform, or trapezoidal rule (S4, arXiv 2111.00396, section 2.3).

        log_decay = log((1 + dt A / 2) / (1 - dt A / 2)),    B_bar = dt B / (1 - dt A / 2)

    A real A needs dt |A| < 2: beyond, the decay is negative, its logarithm is not real, and NaN is returned.
    The same A as a complex tensor has no such limit. Arguments and errors are those of `discretize_zoh`.
    """
    dt = _step_per_state("discretize_bilinear", A, B, dt)
    half = dt * A / 2
    return torch.log1p(half) - torch.log1p(-half), dt * B / (1 - half)


def _step_per_state(op: str, A: Tensor, B: Tensor, dt: Tensor) -> Tensor:
    """dt with an axis for the states, after a check of all shapes."""
    axes = "d_inner d_state"
    check_shapes(op, {"A": axes, "B": axes, "dt": "d_inner" if dt.ndim == 1 else axes}, (A, B, dt))
    return dt.unsqueeze(-1) if dt.ndim == 1 else dt


def _in_one_precision(A: Tensor, B: Tensor, dt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """float64 or complex128 if any argument is, else float32 or complex64."""
    if B.is_complex() and not A.is_complex():
        raise ValueError(f"discretize_zoh: B is {str(B.dtype)[6:]}; it must be real, because A is real")
    double = any(tensor.dtype in (torch.float64, torch.complex128) for tensor in (A, B, dt))
    real, paired = (torch.float64, torch.complex128) if double else (torch.float32, torch.complex64)
    states = paired if A.is_complex() else real
    return A.to(states), B.to(states), dt.to(real)


def _zoh(A: Tensor, B: Tensor, dt: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    if backend == "triton":
        from bioaudio_kernels.lti_scan.discretize_triton import zoh_triton

        return zoh_triton(A, B, dt)
    log_decay = dt * A
    return log_decay, dt * _mean_decay(log_decay) * B


def _mean_decay(z: Tensor) -> Tensor:
    """(exp(z) - 1) / z: the mean of exp(t z) over a step, t from 0 to 1."""
    return torch.where(z == 0, 1, torch.expm1(z) / z)


def _zoh_backward(
    d_log_decay: Tensor, d_B_bar: Tensor, A: Tensor, B: Tensor, dt: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of A, B and dt."""
    if backend == "triton":
        from bioaudio_kernels.lti_scan.discretize_triton import zoh_backward_triton

        return zoh_backward_triton(d_log_decay, d_B_bar, A, B, dt)
    # In float64, because the slope of the mean cancels close to 0.
    z = (dt * A).to(torch.complex128 if A.is_complex() else torch.float64)
    mean = _mean_decay(z)
    slope = torch.where(z == 0, 0.5, (1 - mean) / z + mean)
    d_z = d_log_decay + (dt * slope * B).conj() * d_B_bar
    d_dt = A.conj() * d_z + (mean * B).conj() * d_B_bar
    d_dt = d_dt.real if d_dt.is_complex() else d_dt
    d_dt = d_dt if dt.shape == A.shape else d_dt.sum(1, keepdim=True)
    d_B = dt * mean.conj() * d_B_bar
    return (dt * d_z).to(A.dtype), d_B.to(B.dtype), d_dt.to(dt.dtype, memory_format=torch.contiguous_format)


def _fake_zoh(A: Tensor, B: Tensor, dt: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    return A.new_empty(A.shape), A.new_empty(A.shape)


def _fake_zoh_backward(
    d_log_decay: Tensor, d_B_bar: Tensor, A: Tensor, B: Tensor, dt: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    return A.new_empty(A.shape), A.new_empty(A.shape), dt.new_empty(dt.shape)


def _setup_context(ctx: Any, arguments: tuple[Any, ...], results: tuple[Tensor, ...]) -> None:
    *tensors, ctx.backend = arguments
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, d_log_decay: Tensor, d_B_bar: Tensor) -> tuple[Tensor | None, ...]:
    backward = torch.ops.bioaudio.discretize_zoh_backward.default
    return *backward(d_log_decay, d_B_bar, *ctx.saved_tensors, ctx.backend), None


def _define() -> None:
    system = "Tensor A, Tensor B, Tensor dt, str backend"
    for name, schema, function, fake in (
        ("discretize_zoh", f"({system}) -> (Tensor, Tensor)", _zoh, _fake_zoh),
        (
            "discretize_zoh_backward",
            f"(Tensor d_log_decay, Tensor d_B_bar, {system}) -> (Tensor, Tensor, Tensor)",
            _zoh_backward,
            _fake_zoh_backward,
        ),
    ):
        torch.library.define(f"bioaudio::{name}", schema)
        torch.library.impl(f"bioaudio::{name}", ("cpu", "cuda"))(function)
        torch.library.register_fake(f"bioaudio::{name}")(fake)
    register_autograd(torch.ops.bioaudio.discretize_zoh.default, _differentiate, _setup_context)


_define()
