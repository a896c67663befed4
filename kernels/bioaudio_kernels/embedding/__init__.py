"""Rows of a table by token, with a gradient that is the same bits every time."""

from __future__ import annotations

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional

from bioaudio_kernels.backend import Backend, resolve_backend
from bioaudio_kernels.inputs import check_inputs
from bioaudio_kernels.shapes import check_shapes

__all__ = ["MOST_ROWS", "embedding"]

MOST_ROWS = 1024
"""Of a table whose gradient Triton sums: its work grows with the rows."""


def embedding(
    tokens: Integer[Tensor, "*batch"], weight: Float[Tensor, "vocab d_model"], *, backend: Backend = "auto"
) -> Float[Tensor, "*batch d_model"]:
    """`weight[tokens]`, as torch.nn.functional.embedding.

    The gradient of row v is the sum over all places of token v. torch adds them up by atomics on a GPU, in
    whatever order they come, so that two runs of one training drift apart; and it takes long where few
    tokens occur, as in DNA. On Triton it is the product of one-hot vectors and the gradient, in float32 and
    in a fixed order. A gradient that is not finite makes rows of other tokens NaN.

    Args:
        tokens: ids in [0, vocab).
        weight: the table, (vocab, d_model). With more than `MOST_ROWS` rows "auto" leaves it to torch.
        backend: "auto", "reference", "cpu" (both torch's) or "triton"; see `resolve_backend`.

    Raises:
        ValueError: if dtypes or devices do not fit, or the backend cannot be given.
    """
    check_inputs("embedding", {"weight": weight})
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise ValueError(f"embedding: tokens are {tokens.dtype}, expected integers")
    check_shapes("embedding", {"weight": "vocab d_model"}, [weight])
    if backend == "auto" and len(weight) > MOST_ROWS:
        backend = "reference"
    if resolve_backend("embedding", backend, weight) != "triton":
        return functional.embedding(tokens, weight)
    from bioaudio_kernels.embedding.triton_op import embedding_triton

    return embedding_triton(tokens, weight)
