"""A residual layer, x + mixer(norm(x)), around any of the causal mixers."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, TypeAlias, cast

import torch
from bioaudio_kernels import Ranks
from bioaudio_kernels.recompute import Recompute, keeping_all
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bioaudio_mamba.attention import Attention, AttentionState
from bioaudio_mamba.block import BlockState, MambaBlock
from bioaudio_mamba.feed_forward import FeedForward, Nothing
from bioaudio_mamba.norm import LayerNorm, RMSNorm
from bioaudio_mamba.s4_block import MambaS4Block, S4Block, S4State

Mixer: TypeAlias = MambaBlock | MambaS4Block | S4Block | Attention | FeedForward
LayerState: TypeAlias = BlockState | S4State | AttentionState | Nothing
"""The state of a mixer: a tuple of tensors, a value."""
ModelState: TypeAlias = tuple[Any, ...]
"""All that a model remembers of the past, tensors in nested tuples: a `MambaState` or a `SashimiState`."""


class ResidualLayer(nn.Module):
    """x + mixer(norm(x)): the residual stream x keeps its dtype, float32, whatever the mixer computes in.

    x comes and goes as a sum yet to be made, x = residual + y, because the next norm reads it anyway.
    """

    def __init__(self, norm: RMSNorm | LayerNorm, mixer: Mixer) -> None:
        super().__init__()
        self.norm = norm
        self.mixer = mixer

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew."""
        self.norm.reset_parameters()
        self.mixer.reset_parameters(generator)

    def forward(
        self,
        residual: Float[Tensor, "batch length d_model"],
        y: Float[Tensor, "batch length d_model"] | None,
        state: LayerState | None = None,
        *,
        cu_seqlens: Int[Tensor, " borders"] | None = None,
        context: Ranks | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], Float[Tensor, "batch length d_model"], LayerState]:
        """Map a sequence that follows on from `state`; returns the new residual and y, and the new state.

        `cu_seqlens` and `context` are those of `Mamba.forward`.
        """
        with (recompute := Recompute()):
            normed, total = self.norm.add(y, residual)
            recompute.make_again(normed, self.norm.again(total))
            new_y, new_state = self.mixer(normed, state, cu_seqlens=cu_seqlens, context=context)
        return total, new_y, new_state

    def step(
        self, x: Float[Tensor, "batch d_model"], state: LayerState
    ) -> tuple[Float[Tensor, "batch d_model"], LayerState]:
        """`forward` over a single time step, the sum made."""
        y, new_state = cast(Any, self.mixer).step(self.norm(x), state)
        return x + y, new_state


def run_layer(layer: ResidualLayer, *arguments: Any, again: bool, **packing: Any) -> Any:
    """The layer's results; `again`: its activations are made again in the backward pass, not kept."""
    if not again or not torch.is_grad_enabled():
        return layer(*arguments, **packing)

    def run(*arguments: Any) -> Any:
        with nullcontext() if torch.compiler.is_compiling() else keeping_all():
            return layer(*arguments, **packing)

    return checkpoint(run, *arguments, use_reentrant=False)
