"""The causal depthwise convolution on Triton as PyTorch operators."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bioaudio_kernels.causal_conv1d.reference import causal_conv1d_reference
from bioaudio_kernels.causal_conv1d.triton_backward import backward_kernel
from bioaudio_kernels.causal_conv1d.triton_config import MAX_WIDTH, ConvConfig, choose_config, pack_of
from bioaudio_kernels.causal_conv1d.triton_forward import forward_kernel
from bioaudio_kernels.differentiable import register_autograd
from bioaudio_kernels.integers import ceil_div
from bioaudio_kernels.triton_sums import sum_over_rows


def causal_conv1d_triton(
    x: Float[Tensor, "batch length channels"],
    weight: Float[Tensor, "channels width"],
    bias: Float[Tensor, " channels"] | None = None,
    initial_state: Float[Tensor, "sequences width-1 channels"] | None = None,
    activation: str | None = None,
    cu_seqlens: Int[Tensor, " borders"] | None = None,
) -> tuple[Float[Tensor, "batch length channels"], Float[Tensor, "sequences width-1 channels"]]:
    """See `causal_conv1d`. float32, bfloat16 or float16, each argument its own; sums in float32.

    Filters of more than `MAX_WIDTH` taps, which no model of this kind has, run on the reference.
    """
    if weight.shape[1] > MAX_WIDTH:
        return causal_conv1d_reference(x, weight, bias, initial_state, activation, cu_seqlens)
    if x.numel() == 0:
        if initial_state is None:
            initial_state = x.new_zeros(_sequences(x, cu_seqlens), weight.shape[1] - 1, x.shape[2])
        return torch.empty_like(x), initial_state.to(x.dtype, copy=True)
    return _forward(x, weight, bias, initial_state, cu_seqlens, activation == "silu")


# Not by `custom_op`, whose calls cost Python several times as much.
_ARGUMENTS = "Tensor x, Tensor weight, Tensor? bias, Tensor? initial_state, Tensor? cu_seqlens, bool silu"
torch.library.define("bioaudio::causal_conv1d", f"({_ARGUMENTS}) -> (Tensor, Tensor)")
torch.library.define(
    "bioaudio::causal_conv1d_backward",
    f"(Tensor dy, Tensor? d_final, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor)",
)
_forward = torch.ops.bioaudio.causal_conv1d.default
_backward = torch.ops.bioaudio.causal_conv1d_backward.default


@torch.library.impl("bioaudio::causal_conv1d", ("cpu", "cuda"))
def _(x, weight, bias, initial_state, cu_seqlens, silu):
    width, sequences = weight.shape[1], _sequences(x, cu_seqlens)
    config = _config(x, weight)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    final_state = torch.empty(sequences, width - 1, x.shape[2], dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(x):
        forward_kernel[_grid(x, cu_seqlens, config)](
            x, x.stride(), weight, weight.stride(), contiguous(bias), initial_state, _strides(initial_state),
            contiguous(cu_seqlens), y, final_state, sequences, x.shape[1], config.chunk, x.shape[2],
            SILU=silu, PACK=pack_of(config, x), **_constants(x, weight, config),
        )  # fmt: skip
    return y, final_state


@torch.library.register_fake(_forward)
def _(x, weight, bias, initial_state, cu_seqlens, silu):
    return x.new_empty(x.shape), x.new_empty(_sequences(x, cu_seqlens), weight.shape[1] - 1, x.shape[2])


@torch.library.impl("bioaudio::causal_conv1d_backward", ("cpu", "cuda"))
def _(dy, d_final, x, weight, bias, initial_state, cu_seqlens, silu):
    """dx; float32 (width + 1, channels) of the taps, then the bias; d_initial, empty without a state."""
    channels, width = weight.shape
    config = _config(x, weight, backward=True)
    grid = _grid(x, cu_seqlens, config)
    chunks = grid[0] // ceil_div(channels, config.block)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    d_params = torch.empty(chunks, width + 1, channels, dtype=torch.float32, device=x.device)
    d_initial = x.new_empty(0, dtype=torch.float32) if initial_state is None else _like(initial_state)
    with torch.cuda.device_of(x):
        backward_kernel[grid](
            x, x.stride(), weight, weight.stride(), contiguous(bias), initial_state, _strides(initial_state),
            contiguous(cu_seqlens), dy, dy.stride(), d_final, _strides(d_final), dx, d_params,
            None if initial_state is None else d_initial,
            _sequences(x, cu_seqlens), x.shape[1], config.chunk, channels,
            SILU=silu, PACK=pack_of(config, x, dy), **_constants(x, weight, config),
        )  # fmt: skip
    return dx, sum_over_rows(d_params), d_initial


@torch.library.register_fake(_backward)
def _(dy, d_final, x, weight, bias, initial_state, cu_seqlens, silu):
    channels, width = weight.shape
    d_initial = x.new_empty(0, dtype=torch.float32) if initial_state is None else _like(initial_state)
    return x.new_empty(x.shape), x.new_empty(width + 1, channels, dtype=torch.float32), d_initial


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, dy: Tensor | None, d_final: Tensor | None) -> tuple[Any, ...]:
    x, weight, bias, initial_state, cu_seqlens = ctx.saved_tensors
    if dy is None:
        dy = torch.zeros((), dtype=x.dtype, device=x.device).expand(x.shape)
    dx, d_params, d_initial = _backward(dy, d_final, x, weight, bias, initial_state, cu_seqlens, ctx.silu)
    d_weight = d_params[:-1].mT.to(weight.dtype)
    d_bias = None if bias is None else d_params[-1].to(bias.dtype)
    return dx, d_weight, d_bias, None if initial_state is None else d_initial, None, None


register_autograd(_forward, _differentiate, _setup_context)


def _sequences(x: Tensor, cu_seqlens: Tensor | None) -> int | torch.SymInt:
    return x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1


def _config(x: Tensor, weight: Tensor, *, backward: bool = False) -> ConvConfig:
    batch, length, channels = x.shape
    return choose_config(batch, length, channels, weight.shape[1], x.element_size(), backward=backward)


def _grid(x: Tensor, cu_seqlens: Tensor | None, config: ConvConfig) -> tuple[int]:
    """Programs: blocks of channels times chunks. Packed sequences need at most so many; see `find_chunk`."""
    batch, length, channels = x.shape
    if cu_seqlens is None:
        chunks = batch * ceil_div(length, config.chunk)
    else:
        chunks = length // config.chunk + cu_seqlens.shape[0] - 1
    return (ceil_div(channels, config.block) * chunks,)


def _constants(x: Tensor, weight: Tensor, config: ConvConfig) -> dict[str, Any]:
    return {
        "WIDTH": weight.shape[1],
        "BLOCK": config.block,
        "UNROLL": config.unroll,
        "EVEN": x.shape[2] % config.block == 0,
        "num_warps": 1,
        "enable_fp_fusion": True,
    }


def contiguous(tensor: Tensor | None) -> Tensor | None:
    """The tensor in one piece of memory; None stays None."""
    return None if tensor is None else tensor.contiguous()


def _like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)


def _strides(tensor: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0) if tensor is None else tensor.stride()
