"""A causal model reads sequences of any length piece by piece, handing its state on: what each base costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from bioaudio_data.vocabulary import DNA
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bioaudio_mamba import CausalLM
from bioaudio_recipes.pretrain.next_token_loss import unpack

Precision = Literal["32-true", "bf16-mixed"]

Reader: TypeAlias = Callable[[int, int], NDArray[np.uint8]]
"""`read(start, end)`: packed bases `start` to `end - 1` of each sequence, uint8 (batch, end - start)."""


class Piece(NamedTuple):
    """What some neighbouring bases of each sequence cost."""

    start: int
    """Position of the first of them in its sequence."""
    nats: Float[Tensor, "batch piece"]
    """Negative log-likelihood of each given all bases before it; 0 where there is no A, C, G or T."""
    is_base: Bool[Tensor, "batch piece"]
    """Whether there is an A, C, G or T."""


@torch.inference_mode()
def stream_nats(
    model: CausalLM, read: Reader, length: int, *, piece_length: int, precision: Precision
) -> Iterator[Piece]:
    """Predict every base but the first of each sequence, at most `piece_length` at once.

    Memory does not grow with `length`, and the results do not depend on `piece_length` beyond rounding.

    Args:
        model: on the device that is to do the work.
        read: gives the sequences of the batch, piece by piece.
        length: bases of each sequence.
        piece_length: bases of each sequence in one forward pass.
        precision: bf16-mixed runs matrix products in bfloat16.
    """
    device = model.lm_head.weight.device
    state = None
    for start in range(1, length, piece_length):
        end = min(start + piece_length, length)
        tokens = unpack(torch.tensor(read(start - 1, end), device=device))
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
            logits, state = model(tokens[:, :-1], state)
        targets = tokens[:, 1:]
        nats = functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
        is_base = (targets >= DNA.A) & (targets <= DNA.T)
        yield Piece(start, torch.where(is_base, nats, 0.0), is_base)


def check_tokens_per_batch(tokens_per_batch: int) -> None:
    """Raise ValueError unless a batch has at least one token."""
    if tokens_per_batch < 1:
        raise ValueError(f"--tokens_per_batch must be 1 or more, got {tokens_per_batch}")
