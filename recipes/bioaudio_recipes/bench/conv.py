"""The causal convolution with bias and SiLU: ours, torch's depthwise Conv1d, and causal_conv1d."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch.nn.functional as F
from bioaudio_kernels import causal_conv1d
from torch import Tensor

from bioaudio_recipes.bench.shape import Shape
from bioaudio_recipes.bench.timing import Contender

WIDTH = 4


def conv_contenders(shape: Shape) -> list[Contender]:
    """All implementations that can be imported here; ours first. x is half of a projection's output."""
    wide = shape.normal(shape.batch, shape.length, 2 * shape.d_inner, seed=0)
    x = wide.detach()[..., : shape.d_inner].requires_grad_()
    weight, bias = shape.normal(shape.d_inner, WIDTH, seed=1), shape.normal(shape.d_inner, seed=2)
    inputs = (x, weight, bias)

    def depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = F.conv1d(x.mT, weight.unsqueeze(1), bias, padding=WIDTH - 1, groups=x.shape[-1])
        return F.silu(y[..., : x.shape[1]]).mT

    def contender(name: str, conv: Callable[..., Tensor]) -> Contender:
        return Contender(name=name, run=lambda: conv(*inputs), inputs=inputs)

    ours = contender("ours", lambda *given: causal_conv1d(*given, activation="silu")[0])
    contenders = [ours, contender("torch Conv1d", depthwise)]
    if shape.device == "cuda":
        try:
            peer = importlib.import_module("causal_conv1d")
        except ImportError:
            return contenders
        contenders.append(
            contender(
                "causal_conv1d",
                lambda x, weight, bias: peer.causal_conv1d_fn(x.mT, weight, bias, activation="silu").mT,
            )
        )
    return contenders
