"""The feed-forward layer behind S4 and attention: position by position, so without a state."""

from __future__ import annotations

from typing import TypeAlias

import torch
import torch.nn.functional as F
from bioaudio_kernels import Ranks
from jaxtyping import Float, Int
from torch import Tensor, nn

from bioaudio_mamba import initialisation
from bioaudio_mamba.layers import Linear

Nothing: TypeAlias = tuple[()]
"""The state of a layer that remembers nothing."""


class FeedForward(nn.Module):
    """linear to `expand` times the width -> GELU -> linear back."""

    def __init__(self, d_model: int, expand: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.up_proj = Linear(d_model, expand * d_model)
        self.down_proj = Linear(expand * d_model, d_model)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weights anew."""
        for linear in (self.up_proj, self.down_proj):
            initialisation.linear_(linear.weight, generator)
            initialisation.bias_(linear.bias, linear.in_features, generator)

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> Nothing:
        """Nothing."""
        return ()

    def forward(
        self,
        hidden: Float[Tensor, "batch length d_model"],
        state: Nothing | None = None,
        *,
        cu_seqlens: Int[Tensor, " borders"] | None = None,
        context: Ranks | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], Nothing]:
        """Map each position, of packed and shared sequences too."""
        return self.down_proj(F.gelu(self.up_proj(hidden))), ()

    def step(
        self, hidden: Float[Tensor, "batch d_model"], state: Nothing
    ) -> tuple[Float[Tensor, "batch d_model"], Nothing]:
        """Map one position."""
        return self.down_proj(F.gelu(self.up_proj(hidden))), ()
