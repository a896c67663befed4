"""Selective scan (S6, Mamba): a state-space recurrence whose step size and input and output maps vary."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from bioaudio_kernels.backend import Backend, resolve_backend
from bioaudio_kernels.selective_scan.reference import selective_scan_reference, selective_scan_step_reference
from bioaudio_kernels.shapes import check_shapes

__all__ = ["selective_scan", "selective_scan_step"]


def selective_scan(
    x: Float[Tensor, "batch length d_inner"],
    dt: Float[Tensor, "batch length d_inner"],
    A: Float[Tensor, "d_inner d_state"],
    B: Float[Tensor, "batch length d_state"],
    C: Float[Tensor, "batch length d_state"],
    D: Float[Tensor, " d_inner"] | None = None,
    z: Float[Tensor, "batch length d_inner"] | None = None,
    dt_bias: Float[Tensor, " d_inner"] | None = None,
    initial_state: Float[Tensor, "batch d_inner d_state"] | None = None,
    *,
    dt_softplus: bool = True,
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "batch length d_inner"], Float[Tensor, "batch d_inner d_state"]]:
    """Run the selective state-space recurrence over a sequence (Mamba, arXiv 2312.00752, Algorithm 2).

        delta_t = softplus(dt_t + dt_bias)
        h_t     = exp(delta_t A) h_{t-1} + delta_t B_t x_t
        y_t     = (C_t . h_t + D x_t) * silu(z_t)

    States and decays are float32 whatever the dtype of x (float64 on the reference). Gradients reach every
    tensor argument, `initial_state` included, from y and from the final state. Any strides; length 0 gives
    back the state.

    Args:
        x: input of the state space, (batch, length, d_inner).
        dt: step size before bias and softplus, (batch, length, d_inner).
        A: diagonal of the state matrix, real and negative, (d_inner, d_state).
        B: input map of each step, (batch, length, d_state).
        C: output map of each step, (batch, length, d_state).
        D: skip connection, (d_inner,); None leaves it out.
        z: gate, (batch, length, d_inner); None leaves it out.
        dt_bias: added to dt before the softplus, (d_inner,); None leaves it out.
        initial_state: h_0, (batch, d_inner, d_state); None means zeros.
        dt_softplus: whether delta is softplus(dt + dt_bias) or dt + dt_bias itself.
        backend: "auto", "reference", "cpu" or "triton"; see `resolve_backend`.

    Returns:
        y (batch, length, d_inner) in the dtype of x, and the final state (batch, d_inner, d_state).

    Raises:
        ValueError: if shapes do not fit each other, or the backend cannot serve these tensors.
    """
    tensors = (x, dt, A, B, C, D, z, dt_bias, initial_state)
    check_shapes("selective_scan", _SCAN_SHAPES, tensors)
    chosen = resolve_backend("selective_scan", backend, *tensors)
    if chosen == "triton":
        from bioaudio_kernels.selective_scan.triton_op import selective_scan_triton

        return selective_scan_triton(*tensors, dt_softplus)
    if chosen == "cpu":
        from bioaudio_kernels.selective_scan.cpu import selective_scan_cpu

        return selective_scan_cpu(*tensors, dt_softplus)
    return selective_scan_reference(*tensors, dt_softplus)


def selective_scan_step(
    x: Float[Tensor, "batch d_inner"],
    dt: Float[Tensor, "batch d_inner"],
    A: Float[Tensor, "d_inner d_state"],
    B: Float[Tensor, "batch d_state"],
    C: Float[Tensor, "batch d_state"],
    D: Float[Tensor, " d_inner"] | None,
    z: Float[Tensor, "batch d_inner"] | None,
    dt_bias: Float[Tensor, " d_inner"] | None,
    state: Float[Tensor, "batch d_inner d_state"],
    *,
    dt_softplus: bool = True,
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "batch d_inner"], Float[Tensor, "batch d_inner d_state"]]:
    """One time step of `selective_scan`, for generation: returns y and the new state; `state` is not changed.

    Arguments are those of `selective_scan` without the length axis, and `state` is required.

    Raises:
        ValueError: if shapes do not fit each other, or the backend cannot serve these tensors.
    """
    tensors = (x, dt, A, B, C, D, z, dt_bias, state)
    check_shapes("selective_scan_step", _STEP_SHAPES, tensors)
    if resolve_backend("selective_scan_step", backend, *tensors) == "triton":
        from bioaudio_kernels.selective_scan.triton_op import selective_scan_step_triton

        return selective_scan_step_triton(*tensors, dt_softplus)
    return selective_scan_step_reference(*tensors, dt_softplus)


_SCAN_SHAPES = {
    "x": "batch length d_inner",
    "dt": "batch length d_inner",
    "A": "d_inner d_state",
    "B": "batch length d_state",
    "C": "batch length d_state",
    "D": "d_inner",
    "z": "batch length d_inner",
    "dt_bias": "d_inner",
    "initial_state": "batch d_inner d_state",
}
_STEP_SHAPES = {
    name.replace("initial_", ""): axes.replace(" length", "") for name, axes in _SCAN_SHAPES.items()
}
