"""Causal depthwise convolution: the short filter in front of the scan in a Mamba block."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from bioaudio_kernels.backend import Backend, resolve_backend
from bioaudio_kernels.causal_conv1d.reference import causal_conv1d_reference, causal_conv1d_step_reference
from bioaudio_kernels.shapes import check_shapes

__all__ = ["Activation", "causal_conv1d", "causal_conv1d_step"]

Activation = Literal["silu"]


def causal_conv1d(
    x: Float[Tensor, "batch length channels"],
    weight: Float[Tensor, "channels width"],
    bias: Float[Tensor, " channels"] | None = None,
    initial_state: Float[Tensor, "batch width-1 channels"] | None = None,
    *,
    activation: Activation | None = None,
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "batch length channels"], Float[Tensor, "batch width-1 channels"]]:
    """Filter each channel by its own short causal filter, then add a bias and apply SiLU.

        y_t = act(bias + sum_k weight[:, k] * x_{t - (width - 1) + k})

    Inputs before the first step come from `initial_state`. Sums are float32 whatever the dtype of x.
    Gradients reach every tensor argument from y and from the final state.

    Args:
        x: (batch, length, channels), any strides; length 0 gives back the state.
        weight: (channels, width); the last column multiplies the present input.
        bias: (channels,); None leaves it out.
        initial_state: the width - 1 inputs before x, oldest first, (batch, width - 1, channels); None: zeros.
        activation: None or "silu".
        backend: "auto", "reference", "cpu" or "triton"; see `resolve_backend`.

    Returns:
        y (batch, length, channels), and the final state (batch, width - 1, channels): the last inputs, oldest
        first. Both have the dtype of x.

    Raises:
        ValueError: if shapes do not fit, the activation is unknown, or the backend cannot be given.
    """
    tensors = (x, weight, bias, initial_state)
    _check("causal_conv1d", "batch length channels", tensors, activation)
    chosen = resolve_backend("causal_conv1d", backend, *tensors)
    if chosen == "triton":
        from bioaudio_kernels.causal_conv1d.triton_op import causal_conv1d_triton

        return causal_conv1d_triton(*tensors, activation)
    if chosen == "cpu":
        from bioaudio_kernels.causal_conv1d.cpu import causal_conv1d_cpu

        return causal_conv1d_cpu(*tensors, activation)
    return causal_conv1d_reference(*tensors, activation)


def causal_conv1d_step(
    x: Float[Tensor, "batch channels"],
    weight: Float[Tensor, "channels width"],
    bias: Float[Tensor, " channels"] | None,
    state: Float[Tensor, "batch width-1 channels"],
    *,
    activation: Activation | None = None,
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "batch channels"], Float[Tensor, "batch width-1 channels"]]:
    """One time step of `causal_conv1d`, for generation: returns y and the new state; `state` is not changed.

    Raises:
        ValueError: if shapes do not fit, the activation is unknown, or the backend cannot be given.
    """
    tensors = (x, weight, bias, state)
    _check("causal_conv1d_step", "batch channels", tensors, activation)
    if resolve_backend("causal_conv1d_step", backend, *tensors) == "triton":
        from bioaudio_kernels.causal_conv1d.triton_op import causal_conv1d_step_triton

        return causal_conv1d_step_triton(*tensors, activation)
    return causal_conv1d_step_reference(*tensors, activation)


def _check(op: str, x_axes: str, tensors: tuple[Tensor | None, ...], activation: str | None) -> None:
    shapes = {"x": x_axes, "weight": "channels width", "bias": "channels", "state": "batch width-1 channels"}
    check_shapes(op, shapes, tensors)
    _, weight, _, state = tensors
    if weight is not None and weight.shape[1] < 1:
        raise ValueError(f"{op}: weight has width 0; it needs at least one tap")
    if weight is not None and state is not None and state.shape[1] != weight.shape[1] - 1:
        raise ValueError(
            f"{op}: the state holds {state.shape[1]} inputs, width {weight.shape[1]} needs width - 1"
        )
    if activation not in (None, "silu"):
        raise ValueError(f"{op}: activation={activation!r} is unknown; use None or 'silu'")
