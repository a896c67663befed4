"""One step of the convolution on Triton, for decoding: a single launch, differentiable."""

# No `from __future__ import annotations` here: torch reads the operators' schemas from real annotations.

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bioaudio_kernels.causal_conv1d.reference import causal_conv1d_step_reference
from bioaudio_kernels.causal_conv1d.triton_config import MAX_WIDTH
from bioaudio_kernels.causal_conv1d.triton_forward import step_kernel
from bioaudio_kernels.causal_conv1d.triton_op import _backward, contiguous
from bioaudio_kernels.integers import ceil_div

BLOCK = 128
"""Channels of a program, which is one warp."""


def causal_conv1d_step_triton(
    x: Float[Tensor, "batch channels"],
    weight: Float[Tensor, "channels width"],
    bias: Float[Tensor, " channels"] | None,
    state: Float[Tensor, "batch width-1 channels"],
    activation: str | None = None,
) -> tuple[Float[Tensor, "batch channels"], Float[Tensor, "batch width-1 channels"]]:
    """See `causal_conv1d_step`. The dtypes of `causal_conv1d_triton`, and its limit on widths."""
    if weight.shape[1] > MAX_WIDTH or x.numel() == 0:
        return causal_conv1d_step_reference(x, weight, bias, state, activation)
    return _step(x, weight, bias, state, activation == "silu")


@torch.library.custom_op("bioaudio::causal_conv1d_step", mutates_args=())
def _step(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, silu: bool) -> tuple[Tensor, Tensor]:
    batch, channels = x.shape
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    new_state = torch.empty(state.shape, dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(x):
        step_kernel[(ceil_div(channels, BLOCK) * batch,)](
            x, x.stride(), weight, weight.stride(), contiguous(bias), state, state.stride(),
            y, new_state, channels, WIDTH=weight.shape[1], SILU=silu, BLOCK=BLOCK,
            num_warps=1, enable_fp_fusion=True,
        )  # fmt: skip
    return y, new_state


@_step.register_fake
def _(x, weight, bias, state, silu):
    return x.new_empty(x.shape), x.new_empty(state.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, dy: Tensor | None, d_state: Tensor | None) -> tuple[Any, ...]:
    """As of a sequence of length one."""
    x, weight, bias, state = ctx.saved_tensors
    dy = torch.zeros_like(x) if dy is None else dy
    dx, d_params, d_initial = _backward(
        dy.unsqueeze(1), d_state, x.unsqueeze(1), weight, bias, state, None, ctx.silu
    )
    d_bias = None if bias is None else d_params[-1].to(bias.dtype)
    return dx.squeeze(1), d_params[:-1].mT.to(weight.dtype), d_bias, d_initial, None


_step.register_autograd(_differentiate, setup_context=_setup_context)
