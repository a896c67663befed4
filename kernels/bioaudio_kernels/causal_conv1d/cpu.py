"""The compiled CPU convolution as torch operators: visible to autograd, to torch.compile and to opcheck."""

# No `from __future__ import annotations` here: torch reads the operators' schemas from real annotations.
import torch
from jaxtyping import Float
from torch import Tensor

from bioaudio_kernels.blocks import block_count
from bioaudio_kernels.causal_conv1d.cpu_kernels import backward, forward
from bioaudio_kernels.compiled import run_tasks
from bioaudio_kernels.flat import empty_float32, flat, flat_rows


def causal_conv1d_cpu(
    x: Float[Tensor, "batch length channels"],
    weight: Float[Tensor, "channels width"],
    bias: Float[Tensor, " channels"] | None = None,
    initial_state: Float[Tensor, "batch width-1 channels"] | None = None,
    activation: str | None = None,
) -> tuple[Float[Tensor, "batch length channels"], Float[Tensor, "batch width-1 channels"]]:
    """See `causal_conv1d`. Differentiable once; the first call on a machine compiles for some seconds."""
    rows = weight.shape[1] - 1
    if initial_state is None:
        initial_state = x.new_zeros(x.shape[0], rows, x.shape[2])
    y = _conv(x, weight, bias, initial_state, activation == "silu")
    recent = torch.cat([initial_state.to(x.dtype), x[:, max(0, x.shape[1] - rows) :]], 1)
    return y, recent[:, recent.shape[1] - rows :].clone()


@torch.library.custom_op("bioaudio::causal_conv1d_cpu", mutates_args=())
def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor, silu: bool) -> Tensor:
    y = empty_float32(*x.shape)
    run_tasks(
        forward, _tasks(x), _work(x, weight), *_kernel_inputs(x, weight, bias, initial_state), silu, flat(y)
    )
    return y.to(x.dtype)


@_conv.register_fake
def _(x, weight, bias, initial_state, silu):
    return x.new_empty(x.shape)


@torch.library.custom_op("bioaudio::causal_conv1d_cpu_backward", mutates_args=())
def _conv_backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor, silu: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and the initial state; float32."""
    batch, _, channels = x.shape
    width = weight.shape[1]
    flat_dy, dy_strides = flat_rows(dy)
    dx = empty_float32(*x.shape)
    dweight = empty_float32(batch, width, channels)
    dbias = empty_float32(batch, channels)
    dstate = empty_float32(batch, width - 1, channels)
    gradients = tuple(flat(gradient) for gradient in (dx, dweight, dbias, dstate))
    inputs = _kernel_inputs(x, weight, bias, initial_state)
    run_tasks(backward, _tasks(x), _work(x, weight), *inputs, silu, flat_dy, dy_strides, gradients)
    return dx, dweight.sum(0).mT.contiguous(), dbias.sum(0), dstate


@_conv_backward.register_fake
def _(dy, x, weight, bias, initial_state, silu):
    dx, dweight, dstate = (t.new_empty(t.shape, dtype=torch.float32) for t in (x, weight, initial_state))
    return dx, dweight, x.new_empty(x.shape[2], dtype=torch.float32), dstate


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, dy):
    tensors = ctx.saved_tensors
    gradients = _conv_backward(dy, *tensors, ctx.silu)
    pairs = zip(tensors, gradients, strict=True)
    return *(None if tensor is None else gradient.to(tensor.dtype) for tensor, gradient in pairs), None


_conv.register_autograd(_differentiate, setup_context=_setup_context)


def _kernel_inputs(x, weight, bias, initial_state):
    """The arguments that both kernels take first; a missing bias is zero."""
    sizes = (x.shape[1], x.shape[2], weight.shape[1])
    offset = x.new_zeros(x.shape[2]) if bias is None else bias
    return sizes, *flat_rows(x), flat(weight.detach().mT), flat(offset), flat(initial_state)


def _work(x: Tensor, weight: Tensor) -> int:
    return x.numel() * weight.shape[1]


def _tasks(x: Tensor) -> int:
    return x.shape[0] * block_count(x.shape[2])
