"""A sequence classifier: a backbone, one vector per sequence, a linear head over the classes."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from bioaudio_mamba import initialisation
from bioaudio_mamba.backbone import Mamba
from bioaudio_mamba.layers import Linear
from bioaudio_mamba.precision import at_least_float32
from bioaudio_mamba.residual import ModelState
from bioaudio_mamba.sashimi import Sashimi
from bioaudio_mamba.time_chunks import sum_over_chunks

Pooling = Literal["last", "mean"]


class SequenceClassifier(nn.Module):
    """Scores whole sequences.

    Args:
        backbone: pretrained or fresh; shared with the caller, not copied.
        n_classes: number of classes, at least 2.
        pooling: the vector that stands for a sequence: the "last" token's, which has seen all others (the
            Mamba paper's choice), or the "mean" over its tokens.
        generator: draws the head's weights; None uses torch's global generator.

    Raises:
        ValueError: `pooling` or `n_classes` is not one of the above.
    """

    backbone: Any

    def __init__(
        self,
        backbone: Mamba | Sashimi,
        n_classes: int,
        pooling: Pooling = "last",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling = {pooling!r} is unknown; use one of {', '.join(get_args(Pooling))}")
        if n_classes < 2:
            raise ValueError(f"n_classes must be at least 2, got {n_classes}")
        self.backbone = backbone
        self.pooling: Pooling = pooling
        self.head = Linear(backbone.config.d_model, n_classes)
        initialisation.linear_(self.head.weight, generator)
        nn.init.zeros_(self.head.bias)

    def freeze_backbone(self) -> None:
        """Train the head alone: no gradient reaches the backbone, and no activations are kept for one."""
        self.backbone.requires_grad_(False)

    def forward(
        self,
        tokens: Integer[Tensor, "batch length"],
        lengths: Integer[Tensor, " batch"] | None = None,
        *,
        chunk_length: int | None = None,
    ) -> Float[Tensor, "batch n_classes"]:
        """Logits of the classes.

        Args:
            tokens: ids, padded at the right; with `chunk_length` they may live on the CPU while the model is
                on a GPU.
            lengths: how many tokens of each row count, 1 to length; None means all. What stands beyond them
                changes nothing.
            chunk_length: tokens of each row whose activations are in memory at once (see `sum_over_chunks`);
                None for all.

        Raises:
            ValueError: a length is out of range.
        """
        if lengths is None:
            lengths = torch.full(tokens.shape[:1], tokens.shape[1], device=tokens.device)
        elif not torch.compiler.is_compiling():
            _check_lengths(lengths, tokens.shape[1])
        lengths, device = lengths.long(), self.head.weight.device
        pool = last_token if self.pooling == "last" else mean_over_tokens

        def chunk(start: int, end: int, state: ModelState | None) -> tuple[Tensor, ModelState]:
            hidden, new_state = self.backbone(tokens[:, start:end].to(device), state)
            return pool(hidden, lengths.to(device), start), new_state

        if chunk_length is None:
            pooled, _ = chunk(0, tokens.shape[1], None)
        else:
            pooled, _ = sum_over_chunks(self.backbone, chunk, tokens.shape[1], chunk_length)
        return self.head(pooled)


def last_token(
    hidden: Float[Tensor, "batch length d_model"], lengths: Integer[Tensor, " batch"], start: int = 0
) -> Float[Tensor, "batch d_model"]:
    """The vector of each sequence's last token, or zeros if it is not among those from `start` on."""
    place = lengths - 1 - start
    inside = (place >= 0) & (place < hidden.shape[1])
    rows = hidden[torch.arange(hidden.shape[0], device=hidden.device), place.clamp(0, hidden.shape[1] - 1)]
    return torch.where(inside.unsqueeze(1), at_least_float32(rows), 0.0)


def mean_over_tokens(
    hidden: Float[Tensor, "batch length d_model"], lengths: Integer[Tensor, " batch"], start: int = 0
) -> Float[Tensor, "batch d_model"]:
    """The sum of each sequence's vectors from `start` on, padding left out, over its number of tokens."""
    position = start + torch.arange(hidden.shape[1], device=hidden.device)
    counted = position < lengths.unsqueeze(1)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    return (hidden * counted.unsqueeze(-1)).sum(1, dtype=wide) / lengths.unsqueeze(1)


def _check_lengths(lengths: Integer[Tensor, " batch"], length: int) -> None:
    shortest, longest = int(lengths.min()), int(lengths.max())
    if shortest < 1 or longest > length:
        raise ValueError(f"lengths lie in [{shortest}, {longest}]; each must be in [1, {length}]")
