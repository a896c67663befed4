"""The lookup of vectors as a PyTorch operator whose gradient Triton sums."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bioaudio_kernels.differentiable import register_autograd
from bioaudio_kernels.embedding.triton_kernel import gradient_kernel
from bioaudio_kernels.integers import ceil_div, next_power_of_2
from bioaudio_kernels.triton_sums import sum_over_rows

STEPS = 32
"""Tokens that a program takes at a time."""
PROGRAMS = 1024
"""At most, of all blocks together: some waves on an H100."""
SUMS = 2**24
"""Numbers that programs may leave to be summed, about."""


def _forward(weight: Tensor, tokens: Tensor) -> Tensor:
    return torch.embedding(weight, tokens)


def _gradient(dy: Tensor, tokens: Tensor, vocab: int) -> Tensor:
    width, steps = dy.shape[-1], tokens.numel()
    # A product of matrices has 16 rows and columns at least.
    rows, lanes = (min(most, max(16, next_power_of_2(size))) for size, most in ((vocab, 128), (width, 64)))
    blocks = ceil_div(vocab, rows), ceil_div(width, lanes)
    most = max(1, min(PROGRAMS // (blocks[0] * blocks[1]), SUMS // (vocab * width)))
    share = ceil_div(steps, STEPS * most) * STEPS
    programs = ceil_div(steps, share)
    sums = dy.new_empty(programs, vocab, width, dtype=torch.float32)
    with torch.cuda.device_of(dy):
        gradient_kernel[(programs, *blocks)](
            tokens.contiguous(), dy.contiguous(), sums, steps, share, vocab, width,
            STEPS=STEPS, ROWS=rows, WIDTH=lanes, num_warps=8 if rows > 32 else 4,
        )  # fmt: skip
    return sum_over_rows(sums).to(dy.dtype)


torch.library.define("bioaudio::embedding", "(Tensor weight, Tensor tokens) -> Tensor")
torch.library.define("bioaudio::embedding_gradient", "(Tensor dy, Tensor tokens, int vocab) -> Tensor")
torch.library.impl("bioaudio::embedding", ("cpu", "cuda"))(_forward)
torch.library.impl("bioaudio::embedding_gradient", ("cpu", "cuda"))(_gradient)
_op, _gradient_op = torch.ops.bioaudio.embedding.default, torch.ops.bioaudio.embedding_gradient.default


@torch.library.register_fake(_op)
def _(weight: Tensor, tokens: Tensor) -> Tensor:
    return weight.new_empty(*tokens.shape, weight.shape[1])


@torch.library.register_fake(_gradient_op)
def _(dy: Tensor, tokens: Tensor, vocab: int) -> Tensor:
    return dy.new_empty(vocab, dy.shape[-1])


def _setup_context(ctx: Any, arguments: tuple[Any, ...], result: Tensor) -> None:
    weight, tokens = arguments
    ctx.vocab = len(weight)
    ctx.save_for_backward(tokens)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
    (tokens,) = ctx.saved_tensors
    return _gradient_op(dy, tokens, ctx.vocab), None


register_autograd(_op, _differentiate, _setup_context)


def embedding_triton(tokens: Tensor, weight: Tensor) -> Tensor:
    """See `embedding`: a table in float32, bfloat16 or float16."""
    if tokens.numel() == 0:
        return torch.embedding(weight, tokens)
    return _op(weight, tokens)
