"""The causal depthwise convolution on Triton as PyTorch operators."""

# No `from __future__ import annotations` here: torch reads the operators' schemas from real annotations.

from typing import Any

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from bioaudio_kernels.causal_conv1d.triton_kernels import backward_kernel, forward_kernel

BLOCK = 128
"""Channels of a program, which is one warp: four neighbouring ones a lane."""
CHUNK = 256
"""Steps of a program, unless the convolution is wider."""
UNROLL = 4
"""Steps whose loads are issued together."""


def causal_conv1d_triton(
    x: Float[Tensor, "batch length channels"],
    weight: Float[Tensor, "channels width"],
    bias: Float[Tensor, " channels"] | None = None,
    initial_state: Float[Tensor, "batch width-1 channels"] | None = None,
    activation: str | None = None,
) -> tuple[Float[Tensor, "batch length channels"], Float[Tensor, "batch width-1 channels"]]:
    """See `causal_conv1d`. float32, bfloat16 or float16, each argument its own; sums in float32."""
    if x.numel() == 0:
        if initial_state is None:
            initial_state = x.new_zeros(x.shape[0], weight.shape[1] - 1, x.shape[2])
        return torch.empty_like(x), initial_state.to(x.dtype, copy=True)
    return _forward(x, weight, bias, initial_state, activation == "silu")


def causal_conv1d_step_triton(
    x: Float[Tensor, "batch channels"],
    weight: Float[Tensor, "channels width"],
    bias: Float[Tensor, " channels"] | None,
    state: Float[Tensor, "batch width-1 channels"],
    activation: str | None = None,
) -> tuple[Float[Tensor, "batch channels"], Float[Tensor, "batch width-1 channels"]]:
    """One time step: the convolution of a sequence of length one, by the same kernel."""
    y, state = causal_conv1d_triton(x.unsqueeze(1), weight, bias, state, activation)
    return y.squeeze(1), state


def _shape(length: int, channels: int, width: int) -> dict[str, Any]:
    return {
        "WIDTH": width,
        "CHUNK": max(CHUNK, triton.next_power_of_2(width)),
        "BLOCK": BLOCK,
        "UNROLL": min(UNROLL, length),
        "EVEN": channels % BLOCK == 0,
        "num_warps": 1,
        "enable_fp_fusion": True,
    }


@torch.library.custom_op("bioaudio::causal_conv1d", mutates_args=())
def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    batch, length, channels = x.shape
    width = weight.shape[1]
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    final_state = torch.empty(batch, width - 1, channels, dtype=x.dtype, device=x.device)
    shape = _shape(length, channels, width)
    with torch.cuda.device_of(x):
        forward_kernel[(triton.cdiv(channels, BLOCK) * triton.cdiv(length, shape["CHUNK"]) * batch,)](
            x, x.stride(), weight, weight.stride(), bias, initial_state, _strides(initial_state),
            y, final_state, length, channels, SILU=silu, **shape,
        )  # fmt: skip
    return y, final_state


@_forward.register_fake
def _(x, weight, bias, initial_state, silu):
    batch, _, channels = x.shape
    return x.new_empty(x.shape), x.new_empty(batch, weight.shape[1] - 1, channels)


@torch.library.custom_op("bioaudio::causal_conv1d_backward", mutates_args=())
def _backward(
    dy: Tensor,
    d_final: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, length, channels = x.shape
    width = weight.shape[1]
    shape = _shape(length, channels, width)
    chunks = triton.cdiv(length, shape["CHUNK"])
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    d_initial = torch.empty(batch, width - 1, channels, dtype=x.dtype, device=x.device)
    d_weight = torch.empty(batch * chunks, width, channels, device=x.device)
    d_bias = torch.empty(batch * chunks, channels, device=x.device)
    with torch.cuda.device_of(x):
        backward_kernel[(triton.cdiv(channels, BLOCK) * chunks * batch,)](
            x, x.stride(), weight, weight.stride(), bias, initial_state, _strides(initial_state),
            dy, dy.stride(), d_final, _strides(d_final), dx, d_weight, d_bias, d_initial, length, channels,
            SILU=silu, **shape,
        )  # fmt: skip
    return dx, d_weight.sum(0).mT.contiguous(), d_bias.sum(0), d_initial


@_backward.register_fake
def _(dy, d_final, x, weight, bias, initial_state, silu):
    batch, _, channels = x.shape
    single = weight.new_empty(weight.shape, dtype=torch.float32)
    return (
        x.new_empty(x.shape),
        single,
        single[:, 0].clone(),
        x.new_empty(batch, weight.shape[1] - 1, channels),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, silu = inputs
    ctx.save_for_backward(*tensors)
    ctx.silu = silu
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, dy: Tensor | None, d_final: Tensor | None) -> tuple[Any, ...]:
    x, weight, bias, initial_state = ctx.saved_tensors
    if dy is None:
        dy = torch.zeros((), dtype=x.dtype, device=x.device).expand(x.shape)
    gradients = _backward(dy, d_final, x, weight, bias, initial_state, ctx.silu)
    cast = [
        None if tensor is None else gradient.to(tensor.dtype)
        for tensor, gradient in zip(ctx.saved_tensors, gradients, strict=True)
    ]
    return *cast, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def _strides(tensor: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0) if tensor is None else tensor.stride()
