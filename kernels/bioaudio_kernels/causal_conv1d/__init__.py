"""Causal depthwise convolution: the short filter in front of the scan in a Mamba block."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from bioaudio_kernels.backend import Backend, resolve_backend
from bioaudio_kernels.causal_conv1d.reference import causal_conv1d_reference, causal_conv1d_step_reference
from bioaudio_kernels.inputs import check_inputs
from bioaudio_kernels.packed import check_cu_seqlens
from bioaudio_kernels.shapes import check_shapes

__all__ = ["Activation", "causal_conv1d", "causal_conv1d_step"]

Activation = Literal["silu"]


def causal_conv1d(
    x: Float[Tensor, "batch length channels"],
    weight: Float[Tensor, "channels width"],
    bias: Float[Tensor, " channels"] | None = None,
    initial_state: Float[Tensor, "sequences width-1 channels"] | None = None,
    *,
    cu_seqlens: Int[Tensor, " borders"] | None = None,
    activation: Activation | None = None,
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "batch length channels"], Float[Tensor, "sequences width-1 channels"]]:
    """Filter each channel by its own short causal filter, then add a bias and apply SiLU.

        y_t = act(bias + sum_k weight[:, k] * x_{t - (width - 1) + k})

    Inputs before the first step come from `initial_state`. Sums are float32 whatever the dtype of x.
    Gradients reach every tensor argument from y and from the final state.

    Args:
        x: (batch, length, channels), any strides; length 0 gives back the state.
        weight: (channels, width); the last column multiplies the present input.
        bias: (channels,); None leaves it out.
        initial_state: the width - 1 inputs before x, oldest first, (sequences, width - 1, channels); None:
            zeros. There are as many sequences as rows in the batch, unless `cu_seqlens` packs them.
        cu_seqlens: (sequences + 1,), int32 or int64, from 0 to length: x is one row (batch 1) of sequences
            packed one after another, of which the i-th is x[:, cu_seqlens[i] : cu_seqlens[i + 1]]; it may be
            empty. Nothing passes from one to the next.
        activation: None or "silu".
        backend: "auto", "reference", "cpu" or "triton"; see `resolve_backend`.

    Returns:
        y (batch, length, channels), and the final state (sequences, width - 1, channels): the last inputs,
        oldest first, where a sequence is too short for them after the last rows of its initial state. Both
        have the dtype of x.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit, `cu_seqlens` is no list of borders, the
            activation is unknown, or the backend cannot be given.
    """
    tensors = (x, weight, bias, initial_state)
    _check("causal_conv1d", "batch length channels", tensors, cu_seqlens, activation)
    chosen = resolve_backend("causal_conv1d", backend, *tensors)
    if chosen == "triton":
        from bioaudio_kernels.causal_conv1d.triton_op import causal_conv1d_triton

        return causal_conv1d_triton(*tensors, activation, cu_seqlens)
    if chosen == "cpu":
        from bioaudio_kernels.causal_conv1d.cpu import causal_conv1d_cpu

        return causal_conv1d_cpu(*tensors, activation, cu_seqlens)
    return causal_conv1d_reference(*tensors, activation, cu_seqlens)


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
        ValueError: if shapes, dtypes or devices do not fit, the activation is unknown, or the backend cannot
            be given.
    """
    tensors = (x, weight, bias, state)
    _check("causal_conv1d_step", "batch channels", tensors, None, activation)
    if resolve_backend("causal_conv1d_step", backend, *tensors) == "triton":
        from bioaudio_kernels.causal_conv1d.triton_step import causal_conv1d_step_triton

        return causal_conv1d_step_triton(*tensors, activation)
    return causal_conv1d_step_reference(*tensors, activation)


def _check(
    op: str,
    x_axes: str,
    tensors: tuple[Tensor | None, ...],
    cu_seqlens: Tensor | None,
    activation: str | None,
) -> None:
    state = "state" if op.endswith("step") else "initial_state"
    state_axes = "batch width-1 channels" if cu_seqlens is None else "sequences width-1 channels"
    axes = {"x": x_axes, "weight": "channels width", "bias": "channels", state: state_axes}
    check_shapes(op, axes, tensors)
    check_inputs(op, dict(zip(axes, tensors, strict=True)))
    x, weight, _, initial_state = tensors
    assert x is not None
    assert weight is not None
    width = weight.shape[1]
    if width < 1:
        raise ValueError(f"{op}: weight has width 0; it needs at least one tap")
    if initial_state is not None and initial_state.shape[1] != width - 1:
        raise ValueError(
            f"{op}: {state} holds {initial_state.shape[1]} inputs, width {width} needs width - 1"
        )
    if cu_seqlens is not None:
        if cu_seqlens.device != x.device:
            raise ValueError(
                f"{op}: cu_seqlens lies on {cu_seqlens.device}, but x lies on {x.device}; move it there"
            )
        check_cu_seqlens(op, cu_seqlens, x.shape[0], x.shape[1])
        sequences = cu_seqlens.shape[0] - 1
        if initial_state is not None and initial_state.shape[0] != sequences:
            raise ValueError(
                f"{op}: {state} has {initial_state.shape[0]} sequences, but cu_seqlens has {sequences}"
            )
    if activation not in (None, "silu"):
        raise ValueError(f"{op}: activation={activation!r} is unknown; use None or 'silu'")
