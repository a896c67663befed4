"""torch's layers without their draw at construction: whoever owns one fills it (see `initialisation`).

So a model built with a generator neither reads nor advances torch's global random state.
"""

from __future__ import annotations

import torch
from bioaudio_kernels import embedding
from jaxtyping import Float, Integer
from torch import Tensor, nn


class Linear(nn.Linear):
    """nn.Linear with unfilled weights."""

    def reset_parameters(self) -> None:
        """Left to the owner."""


class Embedding(nn.Embedding):
    """nn.Embedding with unfilled weights, and a gradient that is the same every time."""

    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__(vocab_size, d_model)

    def reset_parameters(self) -> None:
        """Left to the owner."""

    def forward(self, input: Integer[Tensor, "*batch"]) -> Float[Tensor, "*batch d_model"]:
        """A row of the table for each token."""
        return embedding(input, self.weight)


class DepthwiseConv(nn.Module):
    """The unfilled weights, and their names, of nn.Conv1d(channels, channels, width, groups=channels)."""

    weight: Tensor
    """(channels, 1, width)"""
    bias: Tensor
    """(channels,)"""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, width))
        self.bias = nn.Parameter(torch.empty(channels))
