"""The causal convolution with bias and SiLU: ours, causal_conv1d, and torch's depthwise Conv1d."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch.nn.functional as F
from bioaudio_kernels import causal_conv1d
from torch import Tensor

from bioaudio_recipes.bench.contender import BOTH, FORWARD, Contender, Job, differentiable
from bioaudio_recipes.bench.roofline import operation_work
from bioaudio_recipes.bench.shape import Shape

WIDTH = 4
Conv = Callable[[Tensor, Tensor, Tensor], Tensor]


def conv_contenders() -> list[Contender]:
    """Ours first. causal_conv1d has a kernel for each layout of its input, (batch, channels, length)."""
    peer, package = "causal_conv1d", "causal_conv1d"
    return [
        Contender(name="ours", prepare=_ours),
        Contender(name=peer, peer=peer, package=package, cuda_only=True, prepare=_causal_conv1d),
        Contender(
            name=f"{peer} (channels last)",
            peer=peer,
            package=package,
            cuda_only=True,
            prepare=_causal_conv1d_channels_last,
        ),
        Contender(name="torch Conv1d", peer="torch", prepare=_torch),
    ]


def _inputs(shape: Shape) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (half of a projection's output), weight, bias, and the gradient of the output."""
    x, _ = shape.normal(shape.batch, shape.length, 2 * shape.d_inner, key=0).chunk(2, dim=-1)
    weight, bias = shape.normal(shape.d_inner, WIDTH, key=1), shape.normal(shape.d_inner, key=2)
    return x, weight, bias, shape.normal(*x.shape, key=3)


def _job(conv: Conv, shape: Shape) -> Job:
    """A convolution that takes (batch, length, channels)."""
    *given, d_output = _inputs(shape)
    x, weight, bias = inputs = [t.detach().requires_grad_() for t in given]
    forward, both = operation_work(inputs, d_output)
    return differentiable(
        lambda: conv(x, weight, bias), inputs, d_output, work={FORWARD: forward, BOTH: both}
    )


def _channels_first_job(conv: Conv, shape: Shape) -> Job:
    """A convolution that takes (batch, channels, length), contiguous."""
    x, weight, bias, d_output = _inputs(shape)
    inputs = [t.detach().requires_grad_() for t in (x.mT.contiguous(), weight, bias)]
    return differentiable(lambda: conv(*inputs), inputs, d_output.mT.contiguous(), channels_first=True)


def _ours(shape: Shape) -> Job:
    return _job(lambda *inputs: causal_conv1d(*inputs, activation="silu")[0], shape)


def _causal_conv1d(shape: Shape) -> Job:
    conv = importlib.import_module("causal_conv1d").causal_conv1d_fn
    return _channels_first_job(lambda *inputs: conv(*inputs, activation="silu"), shape)


def _causal_conv1d_channels_last(shape: Shape) -> Job:
    conv = importlib.import_module("causal_conv1d").causal_conv1d_fn
    return _job(lambda x, weight, bias: conv(x.mT, weight, bias, activation="silu").mT, shape)


def _torch(shape: Shape) -> Job:
    def depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = F.conv1d(x, weight.unsqueeze(1), bias, padding=WIDTH - 1, groups=x.shape[1])
        return F.silu(y[..., : x.shape[2]])

    return _channels_first_job(depthwise, shape)
