"""Negative log-likelihood from hidden vectors, without logits of the whole length in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from bioaudio_mamba.precision import at_least_float32, product_dtype

LOGITS_AT_ONCE = 2**22
"""Of a piece: 16 MB in float32."""


def linear_cross_entropy(
    hidden: Float[Tensor, "*batch d_model"],
    weight: Float[Tensor, "vocab d_model"],
    targets: Int64[Tensor, "*batch"],
) -> Float[Tensor, "*batch"]:
    """-log softmax(hidden @ weight.T)[target] of each position, in float32 (float64 if `hidden` is).

    Logits are made piece by piece along the positions, in the dtype of the product under autocast, and made
    again in the backward pass. Gradients reach `hidden` and `weight`, once.

    Args:
        hidden: vectors that a linear head without bias turns into logits.
        weight: of that head.
        targets: ids in [0, vocab).
    """
    dtype = product_dtype(hidden)
    nll = _LinearCrossEntropy.apply(hidden.flatten(0, -2).to(dtype), weight.to(dtype), targets.flatten())
    return nll.view(targets.shape)


class _LinearCrossEntropy(torch.autograd.Function):
    """Of hidden (positions, d_model), weight (vocab, d_model) and targets (positions,)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight, targets)
        nll = torch.empty(targets.shape, dtype=at_least_float32(hidden[:0]).dtype, device=hidden.device)
        for piece in _pieces(hidden, weight):
            logits = at_least_float32(F.linear(hidden[piece], weight))
            nll[piece] = F.cross_entropy(logits, targets[piece], reduction="none")
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_nll: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, targets = ctx.saved_tensors
        d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=d_nll.dtype)
        classes = torch.arange(len(weight), device=weight.device)
        for piece in _pieces(hidden, weight):
            d_logits = at_least_float32(F.linear(hidden[piece], weight)).softmax(-1)
            d_logits -= (targets[piece, None] == classes).to(d_logits.dtype)
            narrow = d_logits.mul_(d_nll[piece, None]).to(hidden.dtype)
            torch.mm(narrow, weight, out=d_hidden[piece])
            d_weight += narrow.mT @ hidden[piece]
        return d_hidden, d_weight.to(weight.dtype), None


def _pieces(hidden: Tensor, weight: Tensor) -> Iterator[slice]:
    """Ranges of positions."""
    size = max(1, LOGITS_AT_ONCE // len(weight))
    return (slice(first, first + size) for first in range(0, len(hidden), size))
