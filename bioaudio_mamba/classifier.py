"""A sequence classifier: a backbone, one vector per sequence, a linear head over the classes."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from bioaudio_mamba import initialisation
from bioaudio_mamba.backbone import Mamba
from bioaudio_mamba.layers import Linear

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

    def __init__(
        self,
        backbone: Mamba,
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
        self, tokens: Integer[Tensor, "batch length"], lengths: Integer[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch n_classes"]:
        """Logits of the classes.

        Args:
            tokens: ids, padded at the right.
            lengths: how many tokens of each row count, 1 to length; None means all. What stands beyond them
                changes nothing.

        Raises:
            ValueError: a length is out of range.
        """
        if lengths is None:
            lengths = torch.full(tokens.shape[:1], tokens.shape[1], device=tokens.device)
        elif not torch.compiler.is_compiling():
            _check_lengths(lengths, tokens.shape[1])
        hidden, _ = self.backbone(tokens)
        pool = last_token if self.pooling == "last" else mean_over_tokens
        return self.head(pool(hidden, lengths.long()))


def last_token(
    hidden: Float[Tensor, "batch length d_model"], lengths: Integer[Tensor, " batch"]
) -> Float[Tensor, "batch d_model"]:
    """The vector of each sequence's last token."""
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), lengths - 1]


def mean_over_tokens(
    hidden: Float[Tensor, "batch length d_model"], lengths: Integer[Tensor, " batch"]
) -> Float[Tensor, "batch d_model"]:
    """The mean of each sequence's vectors, padding left out."""
    position = torch.arange(hidden.shape[1], device=hidden.device)
    counted = position < lengths.unsqueeze(1)
    return (hidden * counted.unsqueeze(-1)).sum(1) / lengths.unsqueeze(1)


def _check_lengths(lengths: Integer[Tensor, " batch"], length: int) -> None:
    shortest, longest = int(lengths.min()), int(lengths.max())
    if shortest < 1 or longest > length:
        raise ValueError(f"lengths lie in [{shortest}, {longest}]; each must be in [1, {length}]")
