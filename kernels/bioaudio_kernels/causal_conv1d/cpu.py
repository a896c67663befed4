"""The compiled CPU convolution as torch operators: visible to autograd, to torch.compile and to opcheck."""

# No `from __future__ import annotations` here: torch reads the operators' schemas from real annotations.
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bioaudio_kernels.blocks import block_count
from bioaudio_kernels.causal_conv1d.cpu_kernels import backward, forward
from bioaudio_kernels.causal_conv1d.final_state import last_inputs
from bioaudio_kernels.compiled import run_tasks
from bioaudio_kernels.flat import empty_float32, flat, flat_rows


def causal_conv1d_cpu(
    x: Float[Tensor, "batch length channels"],
    weight: Float[Tensor, "channels width"],
    bias: Float[Tensor, " channels"] | None = None,
    initial_state: Float[Tensor, "sequences width-1 channels"] | None = None,
    activation: str | None = None,
    cu_seqlens: Int[Tensor, " borders"] | None = None,
) -> tuple[Float[Tensor, "batch length channels"], Float[Tensor, "sequences width-1 channels"]]:
    """See `causal_conv1d`. Differentiable once; the first call on a machine compiles for some seconds."""
    if initial_state is None:
        sequences = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
        initial_state = x.new_zeros(sequences, weight.shape[1] - 1, x.shape[2])
    y = _conv(x, weight, bias, initial_state, activation == "silu", cu_seqlens)
    return y, last_inputs(x, initial_state, cu_seqlens)


@torch.library.custom_op("bioaudio::causal_conv1d_cpu", mutates_args=())
def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor,
    silu: bool,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    y = empty_float32(*x.shape)
    inputs = _kernel_inputs(x, weight, bias, initial_state, cu_seqlens)
    run_tasks(forward, _tasks(x, initial_state), _work(x, weight), *inputs, silu, flat(y))
    return y.to(x.dtype)


@_conv.register_fake
def _(x, weight, bias, initial_state, silu, cu_seqlens=None):
    return x.new_empty(x.shape)


@torch.library.custom_op("bioaudio::causal_conv1d_cpu_backward", mutates_args=())
def _conv_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor,
    silu: bool,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and the initial state; float32."""
    sequences, _, channels = initial_state.shape
    width = weight.shape[1]
    dx = empty_float32(*x.shape)
    dweight = empty_float32(sequences, width, channels)
    dbias = empty_float32(sequences, channels)
    dstate = empty_float32(*initial_state.shape)
    gradients = tuple(flat(gradient) for gradient in (dx, dweight, dbias, dstate))
    inputs = _kernel_inputs(x, weight, bias, initial_state, cu_seqlens)
    flat_dy = _flat_sequences(dy, cu_seqlens)
    run_tasks(backward, _tasks(x, initial_state), _work(x, weight), *inputs, silu, *flat_dy, gradients)
    return dx, dweight.sum(0).mT.contiguous(), dbias.sum(0), dstate


@_conv_backward.register_fake
def _(dy, x, weight, bias, initial_state, silu, cu_seqlens=None):
    dx, dweight, dstate = (t.new_empty(t.shape, dtype=torch.float32) for t in (x, weight, initial_state))
    return dx, dweight, x.new_empty(x.shape[2], dtype=torch.float32), dstate


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.silu, cu_seqlens = inputs
    ctx.save_for_backward(*tensors, cu_seqlens)


def _differentiate(ctx, dy):
    *tensors, cu_seqlens = ctx.saved_tensors
    gradients = _conv_backward(dy, *tensors, ctx.silu, cu_seqlens)
    pairs = zip(tensors, gradients, strict=True)
    return *(None if tensor is None else gradient.to(tensor.dtype) for tensor, gradient in pairs), None, None


_conv.register_autograd(_differentiate, setup_context=_setup_context)


def _kernel_inputs(x, weight, bias, initial_state, cu_seqlens):
    """The arguments that both kernels take first; a missing bias is zero."""
    sizes = (x.shape[2], weight.shape[1])
    offset = x.new_zeros(x.shape[2]) if bias is None else bias
    borders = _borders(x, cu_seqlens).numpy()
    taps = flat(weight.detach().mT)
    return sizes, borders, *_flat_sequences(x, cu_seqlens), taps, flat(offset), flat(initial_state)


def _borders(x: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """Borders of the sequences among all rows of (batch, length); the batch's own if none are given."""
    if cu_seqlens is not None:
        return cu_seqlens.to(torch.int64).contiguous()
    return torch.arange(x.shape[0] + 1) * x.shape[1]


def _flat_sequences(tensor: Tensor, cu_seqlens: Tensor | None) -> tuple[np.ndarray, np.ndarray, int]:
    """A (batch, length, channels) tensor as its memory, where in it sequences start, and a step's stride."""
    memory, (batch_stride, length_stride) = flat_rows(tensor)
    if cu_seqlens is None:
        starts = torch.arange(tensor.shape[0]) * batch_stride
    else:
        starts = cu_seqlens[:-1].to(torch.int64) * length_stride
    return memory, starts.numpy(), length_stride


def _work(x: Tensor, weight: Tensor) -> int:
    return x.numel() * weight.shape[1]


def _tasks(x: Tensor, initial_state: Tensor) -> int:
    return initial_state.shape[0] * block_count(x.shape[2])
