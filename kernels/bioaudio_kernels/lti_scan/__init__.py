"""Time-invariant diagonal state-space scan (S4D): constant decays, input and output maps per channel."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from bioaudio_kernels.backend import Backend, resolve_backend
from bioaudio_kernels.lti_scan.discretize import discretize_bilinear, discretize_zoh
from bioaudio_kernels.lti_scan.reference import lti_scan_reference, lti_step_reference
from bioaudio_kernels.shapes import check_shapes

__all__ = ["Method", "discretize_bilinear", "discretize_zoh", "lti_scan", "lti_step"]

Method = Literal["auto", "chunks", "fft"]


def lti_scan(
    x: Float[Tensor, "batch length d_inner"],
    log_decay: Inexact[Tensor, "d_inner d_state"],
    B: Inexact[Tensor, "d_inner d_state"],
    C: Inexact[Tensor, "d_inner d_state"],
    D: Float[Tensor, " d_inner"] | None = None,
    initial_state: Inexact[Tensor, "batch d_inner d_state"] | None = None,
    *,
    method: Method = "auto",
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "batch length d_inner"], Inexact[Tensor, "batch d_inner d_state"]]:
    """Run a diagonal state-space system with constant parameters over a sequence (S4D, arXiv 2206.11893).

        h_t = exp(log_decay) h_{t-1} + B x_t
        y_t = C . h_t + D x_t                    (2 Re(C . h_t) + D x_t if log_decay is complex)

    A complex state stands for itself and its conjugate. The state is that of `lti_step`: a sequence can be
    cut anywhere, and generation goes on from where a scan ended. `discretize_zoh` and `discretize_bilinear`
    give log_decay and B. States and sums are float32 whatever the dtype of x. Gradients reach every tensor
    argument from y and from the final state. Any strides; length 0 gives back the state.

    Args:
        x: input, (batch, length, d_inner), real.
        log_decay: logarithm of the decay of a step, (d_inner, d_state), real or complex.
        B, C: input and output maps, (d_inner, d_state), complex only if log_decay is.
        D: skip connection, (d_inner,); None leaves it out.
        initial_state: h_0, (batch, d_inner, d_state), complex if and only if log_decay is; None means zeros.
        method: "chunks": chunks of steps as matrix products, with the state handed on between them. "fft":
            one convolution by the impulse response, whose cost does not grow with batch * d_state. "auto":
            what measured faster, by a fixed rule of `choose_method`. The results differ by rounding alone.
        backend: "auto", "reference", "cpu" or "triton"; see `resolve_backend`. The reference is a loop over
            time and has no method; float64 runs it unless a method is named.

    Returns:
        y (batch, length, d_inner) in the dtype of x, and the final state (batch, d_inner, d_state).

    Raises:
        ValueError: if shapes or dtypes do not fit each other, the method is unknown or at odds with the
            backend, or the backend cannot serve these tensors.
    """
    tensors = (x, log_decay, B, C, D, initial_state)
    _check("lti_scan", "batch length d_inner", tensors)
    if method not in get_args(Method):
        raise ValueError(f"lti_scan: method={method!r} is unknown; use one of {', '.join(get_args(Method))}")
    if backend == "reference" and method != "auto":
        raise ValueError(f"lti_scan: backend='reference' has no method={method!r}; use method='auto'")
    chosen = resolve_backend("lti_scan", backend, *map(_real_part, tensors))
    x, log_decay, B, C, D, initial_state = _in_one_precision(*tensors)
    if x.numel() == 0 or (chosen == "reference" and method == "auto"):
        return lti_scan_reference(x, log_decay, B, C, D, initial_state)
    from bioaudio_kernels.lti_scan.chunks import lti_scan_chunks
    from bioaudio_kernels.lti_scan.fft import lti_scan_fft
    from bioaudio_kernels.lti_scan.method import choose_chunk, choose_method

    if method == "auto":
        method = choose_method(x, log_decay)
    chunk = choose_chunk(x)
    with torch.autocast(x.device.type, enabled=False):  # it would make the products of tables in 16 bits
        if method == "fft":
            return lti_scan_fft(x, log_decay, B, C, D, initial_state, chunk)
        return lti_scan_chunks(x, log_decay, B, C, D, initial_state, chunk, chosen)


def lti_step(
    x: Float[Tensor, "batch d_inner"],
    log_decay: Inexact[Tensor, "d_inner d_state"],
    B: Inexact[Tensor, "d_inner d_state"],
    C: Inexact[Tensor, "d_inner d_state"],
    D: Float[Tensor, " d_inner"] | None,
    state: Inexact[Tensor, "batch d_inner d_state"],
) -> tuple[Float[Tensor, "batch d_inner"], Inexact[Tensor, "batch d_inner d_state"]]:
    """One time step of `lti_scan`, for generation: returns y and the new state; `state` is not changed.

    Raises:
        ValueError: if shapes or dtypes do not fit each other, or the tensors lie on two devices.
    """
    tensors = (x, log_decay, B, C, D, state)
    _check("lti_step", "batch d_inner", tensors)
    resolve_backend("lti_step", "reference", *map(_real_part, tensors))
    x, log_decay, B, C, D, _ = _in_one_precision(*tensors)
    return lti_step_reference(x, log_decay, B, C, D, state.to(log_decay.dtype))


def _check(op: str, x_axes: str, tensors: tuple[Tensor | None, ...]) -> None:
    matrix = "d_inner d_state"
    state = "state" if op == "lti_step" else "initial_state"
    expected = {"x": x_axes, "log_decay": matrix, "B": matrix, "C": matrix, "D": "d_inner"}
    expected[state] = f"batch {matrix}"
    check_shapes(op, expected, tensors)
    given = dict(zip(expected, tensors, strict=True))
    log_decay = given["log_decay"]
    assert log_decay is not None
    if log_decay.shape[1] == 0:
        raise ValueError(f"{op}: log_decay has no states, (d_inner, 0); it needs at least one")
    for name, tensor in given.items():
        if tensor is None:
            continue
        got = str(tensor.dtype).removeprefix("torch.")
        if not (tensor.is_floating_point() or tensor.is_complex()):
            raise ValueError(f"{op}: {name} is {got}; floating-point numbers are allowed")
        if tensor.is_complex() and (name in ("x", "D") or not log_decay.is_complex()):
            reason = "" if name in ("x", "D") else ", because log_decay is real"
            raise ValueError(f"{op}: {name} is {got}; it must be real{reason}")
        if name == state and log_decay.is_complex() and not tensor.is_complex():
            raise ValueError(f"{op}: {name} is {got}; it must be complex, because log_decay is complex")


def _real_part(tensor: Tensor | None) -> Tensor | None:
    """A real tensor of the same device and precision, for `resolve_backend`."""
    return tensor.real if tensor is not None and tensor.is_complex() else tensor


def _in_one_precision(
    x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """x as it is; everything else float64 or complex128 if any argument is, else float32 or complex64."""
    given = [tensor for tensor in (x, log_decay, B, C, D, state) if tensor is not None]
    double = any(tensor.dtype in (torch.float64, torch.complex128) for tensor in given)
    real, paired = (torch.float64, torch.complex128) if double else (torch.float32, torch.complex64)
    states = paired if log_decay.is_complex() else real
    log_decay, B, C = (tensor.to(states) for tensor in (log_decay, B, C))
    D = D if D is None else D.to(real)
    return x, log_decay, B, C, D, state if state is None else state.to(states)
