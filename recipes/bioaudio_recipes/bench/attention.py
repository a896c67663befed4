"""Causal attention of the same width, which grows with the square of the length: torch's own kernel."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from bioaudio_recipes.bench.contender import Job, differentiable
from bioaudio_recipes.bench.shape import Shape

LARGEST_HEAD = 64


def attention_job(shape: Shape) -> Job:
    """Attention alone, beside a scan of as many channels: queries, keys and values are given."""
    head = math.gcd(shape.d_inner, LARGEST_HEAD)
    size = (shape.batch, shape.d_inner // head, shape.length, head)
    queries, keys, values = inputs = [shape.normal(*size, key=key).requires_grad_() for key in range(3)]

    def attend() -> Tensor:
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)

    return differentiable(attend, inputs, shape.normal(*size, key=3))


class AttentionBlock(nn.Module):
    """Projections, causal attention, projection: the part of a Transformer that a Mamba block stands for."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.head = math.gcd(d_model, LARGEST_HEAD)
        self.in_proj = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (batch, length, d_model)."""
        projected = self.in_proj(hidden).unflatten(-1, (3, -1, self.head))
        queries, keys, values = projected.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return self.out_proj(y.transpose(1, 2).flatten(2))
