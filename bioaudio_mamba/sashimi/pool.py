"""From one level to the next and back: steps folded into channels, and channels unfolded into steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bioaudio_mamba import initialisation
from bioaudio_mamba.layers import Linear
from bioaudio_mamba.precision import at_least_float32


class Projection(Linear):
    """A linear layer, its weight normalised on demand: gain * weight / |weight|, row by row."""

    gain: nn.Parameter | None

    def __init__(self, d_in: int, d_out: int, *, gain: bool) -> None:
        super().__init__(d_in, d_out)
        self.register_parameter("gain", nn.Parameter(torch.empty(d_out, 1)) if gain else None)

    @torch.no_grad()
    def draw(self, generator: torch.Generator | None = None) -> None:
        """Fill the weights; a gain starts as the norm of its row."""
        initialisation.linear_(self.weight, generator)
        initialisation.bias_(self.bias, self.in_features, generator)
        if self.gain is not None:
            self.gain.copy_(self.weight.norm(dim=1, keepdim=True))

    def forward(self, input: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """The product, in float32 at least, as the residual stream is."""
        weight = self.weight
        if self.gain is not None:
            weight = weight * (self.gain / weight.norm(dim=1, keepdim=True))
        return at_least_float32(F.linear(input, weight, self.bias))


class Pool(nn.Module):
    """Between a level of width d_model and the next, `pool` times slower and of width d_below."""

    def __init__(
        self,
        d_model: int,
        d_below: int,
        pool: int,
        *,
        gain: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.pool = pool
        self.down_proj = Projection(d_model * pool, d_below, gain=gain)
        self.up_proj = Projection(d_below, d_model * pool, gain=gain)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weights anew."""
        self.down_proj.draw(generator)
        self.up_proj.draw(generator)

    def down(self, x: Float[Tensor, "batch steps d_model"]) -> Float[Tensor, "batch steps_below d_below"]:
        """Steps in whole groups of `pool`, each of them one step below."""
        return self.down_proj(x.unflatten(1, (-1, self.pool)).flatten(2))

    def up(self, x: Float[Tensor, "batch steps_below d_below"]) -> Float[Tensor, "batch steps d_model"]:
        """Each step of the level below as `pool` steps."""
        return self.up_proj(x).unflatten(-1, (self.pool, -1)).flatten(1, 2)
