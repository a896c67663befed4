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
    bias: Float[Tensor, " vocab"] | None = None,
) -> Float[Tensor, "*batch"]:
    """-log softmax(hidden @ weight.T + bias)[target] of each position, in float32 (float64 if `hidden` is).

    Logits are made piece by piece along the positions, in the dtype of the product under autocast, and made
    again in the backward pass. Gradients reach `hidden`, `weight` and `bias`, once.

    Args:
        hidden: vectors that a linear head turns into logits.
        weight: of that head.
        targets: ids in [0, vocab).
        bias: of that head, if it has one.
    """
    dtype = product_dtype(hidden)
    bias = None if bias is None else bias.to(dtype)
    rows = hidden.flatten(0, -2).to(dtype)
    nll = _LinearCrossEntropy.apply(rows, weight.to(dtype), targets.flatten(), bias)
    return nll.view(targets.shape)


class _LinearCrossEntropy(torch.autograd.Function):
    """Of hidden (positions, d_model), weight (vocab, d_model), targets (positions,) and bias (vocab,)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(hidden, weight, targets, bias)
        nll = torch.empty(targets.shape, dtype=at_least_float32(hidden[:0]).dtype, device=hidden.device)
        for piece in _pieces(hidden, weight):
            logits = at_least_float32(F.linear(hidden[piece], weight, bias))
            nll[piece] = F.cross_entropy(logits, targets[piece], reduction="none")
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_nll: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, targets, bias = ctx.saved_tensors
        d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=d_nll.dtype)
        d_bias = None if bias is None else torch.zeros_like(bias, dtype=d_nll.dtype)
        classes = torch.arange(len(weight), device=weight.device)
        for piece in _pieces(hidden, weight):
            d_logits = at_least_float32(F.linear(hidden[piece], weight, bias)).softmax(-1)
            d_logits -= (targets[piece, None] == classes).to(d_logits.dtype)
            d_logits *= d_nll[piece, None]
            if d_bias is not None:
                d_bias += d_logits.sum(0)
            narrow = d_logits.to(hidden.dtype)
            torch.mm(narrow, weight, out=d_hidden[piece])
            d_weight += narrow.mT @ hidden[piece]
        d_bias = None if d_bias is None else d_bias.to(weight.dtype)
        return d_hidden, d_weight.to(weight.dtype), None, d_bias


def _pieces(hidden: Tensor, weight: Tensor) -> Iterator[slice]:
    """Ranges of positions."""
    size = max(1, LOGITS_AT_ONCE // len(weight))
    return (slice(first, first + size) for first in range(0, len(hidden), size))
