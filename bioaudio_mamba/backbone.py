"""The stack of Mamba blocks behind an embedding: tokens in, hidden vectors out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias, cast

import torch
from bioaudio_kernels import Ranks
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn

from bioaudio_mamba import initialisation
from bioaudio_mamba.block import BlockState, MambaBlock
from bioaudio_mamba.config import MambaConfig
from bioaudio_mamba.layers import Embedding
from bioaudio_mamba.norm import RMSNorm
from bioaudio_mamba.precision import at_least_float32
from bioaudio_mamba.residual import ResidualLayer, run_layer

MambaState: TypeAlias = tuple[BlockState, ...]
"""All that a stack of blocks remembers of the past: one state per block, first block first. A value."""


class Mamba(nn.Module):
    """Embedding, `n_layer` residual Mamba blocks with pre-normalisation, and a final norm.

    With the attribute `checkpoint_blocks` True, a pass keeps for the backward pass what enters each block,
    and runs the block again there: the same numbers from a fraction of the memory.

    Args:
        config: the sizes.
        generator: draws the weights; None uses torch's global generator.
    """

    checkpoint_blocks: bool

    def __init__(self, config: MambaConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embedding(config.vocab_size, config.d_model)
        initialisation.embedding_(self.embeddings.weight, generator)
        self.layers = nn.ModuleList(self._layer(generator) for _ in range(config.n_layer))
        self.norm_f = RMSNorm(config.d_model, config.norm_eps, config.backend)
        self.checkpoint_blocks = False

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew, as construction does, on the device where they are now."""
        initialisation.embedding_(self.embeddings.weight, generator)
        for layer in self._residual_layers():
            layer.reset_parameters(generator)
        self.norm_f.reset_parameters()

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> MambaState:
        """The state before the first token, all zeros, on `device` (None: where the weights are)."""
        layers = self._residual_layers()
        return tuple(cast(MambaBlock, layer.mixer).initial_state(batch_size, device) for layer in layers)

    def forward(
        self,
        tokens: Integer[Tensor, "batch length"],
        state: MambaState | None = None,
        *,
        cu_seqlens: Int[Tensor, " borders"] | None = None,
        context: Ranks | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], MambaState]:
        """Hidden vectors after the final norm, and the state after the last token.

        `forward(a) then forward(b, state)` equals `forward(a + b)`; gradients flow through both states.

        Args:
            tokens: ids in [0, vocab_size).
            state: what came before; None is the start of a sequence.
            cu_seqlens: (n_sequences + 1,) borders, from 0 to length: the single row of `tokens` holds
                sequences one after another, which know nothing of each other. States have a row for each.
            context: the ranks that share the sequence, a `ContextGroup`: `tokens` are this rank's shard.
                `state` and the state returned, and their gradients, are those of the whole sequence and the
                same on every rank; gradients of parameters are the shard's part. With `cu_seqlens`, borders
                and states are those of the shard, cut by `bioaudio_kernels.cut_cu_seqlens`: its first
                sequence is the rest of the rank before's last, even if nothing of it is left.

        Raises:
            ValueError: a token (checked on the CPU only) is not of the vocabulary, `state` has another
                number of layers, `cu_seqlens` holds no borders, or a shard is shorter than a convolution
                reaches back.
        """
        residual, y = self._embed(tokens), None
        if cu_seqlens is not None:
            cu_seqlens = cu_seqlens.to(residual.device)
        packing = {"cu_seqlens": cu_seqlens, "context": context}
        new_state = []
        states = [None] * self.config.n_layer if state is None else self._checked(state)
        for layer, layer_state in zip(self._residual_layers(), states, strict=True):
            residual, y, layer_state = run_layer(
                layer, residual, y, layer_state, again=self.checkpoint_blocks, **packing
            )
            new_state.append(layer_state)
        return self.norm_f.add(y, residual)[0], tuple(new_state)

    def step(
        self, tokens: Integer[Tensor, " batch"], state: MambaState
    ) -> tuple[Float[Tensor, "batch d_model"], MambaState]:
        """`forward` over a single token of each sequence."""
        x = self._embed(tokens)
        new_state = []
        for layer, layer_state in zip(self._residual_layers(), self._checked(state), strict=True):
            x, layer_state = layer.step(x, layer_state)
            new_state.append(layer_state)
        return self.norm_f(x), tuple(new_state)

    def _embed(self, tokens: Integer[Tensor, "*batch"]) -> Float[Tensor, "*batch d_model"]:
        """The residual stream's start."""
        if tokens.device.type == "cpu" and not torch.compiler.is_compiling():
            # A GPU checks for itself, and asking it would make it wait.
            check_tokens(tokens, self.config.vocab_size)
        return at_least_float32(self.embeddings(tokens.long()))

    def _layer(self, generator: torch.Generator | None) -> ResidualLayer:
        config = self.config
        norm = RMSNorm(config.d_model, config.norm_eps, config.backend)
        return ResidualLayer(norm, MambaBlock(config, generator))

    def _residual_layers(self) -> Iterator[ResidualLayer]:
        return cast("Iterator[ResidualLayer]", iter(self.layers))

    def _checked(self, state: MambaState) -> MambaState:
        if len(state) != self.config.n_layer:
            raise ValueError(f"state of {len(state)} layers given to a model of {self.config.n_layer}")
        return state


def check_tokens(tokens: Integer[Tensor, "*batch"], vocab_size: int) -> None:
    """Raise ValueError unless every token lies in [0, vocab_size)."""
    if tokens.numel() == 0:
        return
    smallest, largest = int(tokens.min()), int(tokens.max())
    if smallest < 0 or largest >= vocab_size:
        raise ValueError(
            f"tokens lie in [{smallest}, {largest}], but the model's vocabulary has ids"
            f" 0 to {vocab_size - 1}: were they encoded with another vocabulary?"
        )
