"""The U-Net behind an embedding: codes of samples in, hidden vectors out."""

from __future__ import annotations

from typing import Any, cast

import torch
from bioaudio_kernels import Ranks
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn

from bioaudio_mamba import initialisation
from bioaudio_mamba.backbone import check_tokens
from bioaudio_mamba.layers import Embedding
from bioaudio_mamba.norm import LayerNorm
from bioaudio_mamba.one_sequence import check_one_sequence
from bioaudio_mamba.precision import at_least_float32
from bioaudio_mamba.sashimi.config import SashimiConfig
from bioaudio_mamba.sashimi.level import SashimiState, fits, make_level


class Sashimi(nn.Module):
    """Embedding, levels of residual blocks, and a final norm; the vector at a sample sees it and its past.

    With the attribute `checkpoint_blocks` True, a pass keeps for the backward pass what enters each block,
    and runs the block again there: the same numbers from a fraction of the memory.

    Args:
        config: the sizes.
        generator: draws the weights; None uses torch's global generator.
    """

    checkpoint_blocks: bool

    def __init__(self, config: SashimiConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embedding(config.vocab_size, config.d_model)
        self.class_embeddings = Embedding(config.n_classes, config.d_model) if config.n_classes else None
        self._reset_embeddings(generator)
        self.level = make_level(config, 0, generator)
        self.norm_f = LayerNorm(config.d_model, config.norm_eps, config.backend)
        self.checkpoint_blocks = False

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew, as construction does, on the device where they are now."""
        self._reset_embeddings(generator)
        self.level.reset_parameters(generator)
        self.norm_f.reset_parameters()

    def _reset_embeddings(self, generator: torch.Generator | None) -> None:
        # Not small: no norm lies between the embedding and the pools.
        initialisation.embedding_(self.embeddings.weight, generator, std=1.0)
        if self.class_embeddings is not None:
            initialisation.embedding_(self.class_embeddings.weight, generator, std=1.0)

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> SashimiState:
        """The state before the first sample, all zeros, on `device` (None: where the weights are)."""
        return self.level.initial_state(batch_size, device)

    def forward(
        self,
        tokens: Integer[Tensor, "batch length"],
        state: SashimiState | None = None,
        *,
        labels: Integer[Tensor, " batch"] | None = None,
        cu_seqlens: Int[Tensor, " borders"] | None = None,
        context: Ranks | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], SashimiState]:
        """Hidden vectors after the final norm, and the state after the last sample.

        `forward(a) then forward(b, state)` equals `forward(a + b)` wherever the cut is; gradients flow
        through both states.

        Args:
            tokens: codes in [0, vocab_size), any number of them.
            state: what came before; None is the start of a sequence.
            labels: the class of each sequence, in [0, n_classes), if the model has classes; -1 tells it none.
            cu_seqlens, context: None; see `Mamba.forward` for models that take them.

        Raises:
            ValueError: a code or a label (checked on the CPU only) is out of range, labels are missing or
                have no meaning, `state` is another network's, or `cu_seqlens` or `context` is given.
        """
        check_one_sequence("a SaShiMi network", cu_seqlens, context)
        x = self._embed(tokens)
        if (chosen := self._chosen(labels)) is not None:
            x = x + chosen.unsqueeze(1)
        state = self.initial_state(len(tokens)) if state is None else self._checked(state)
        x, new_state = self.level(x, state, again=self.checkpoint_blocks)
        return self.norm_f(x), new_state

    def step(
        self,
        tokens: Integer[Tensor, " batch"],
        state: SashimiState,
        *,
        labels: Integer[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, "batch d_model"], SashimiState]:
        """`forward` over a single sample of each sequence: a level runs only when it is its turn.

        The shapes of a state repeat every `config.cycle` steps. To compile or record steps, unroll so many of
        them from a state at phase 0: in and out it has the shapes of `initial_state`.
        """
        x = self._embed(tokens)
        if (chosen := self._chosen(labels)) is not None:
            x = x + chosen
        x, state = cast(Any, self.level).step(x, self._checked(state))
        return self.norm_f(x), state

    def _checked(self, state: SashimiState) -> SashimiState:
        if not fits(self.level, state):
            raise ValueError("state is that of a network with other levels, poolings or numbers of layers")
        return state

    def _embed(self, tokens: Integer[Tensor, "*batch"]) -> Float[Tensor, "*batch d_model"]:
        if tokens.device.type == "cpu" and not torch.compiler.is_compiling():
            check_tokens(tokens, self.config.vocab_size)
        return at_least_float32(self.embeddings(tokens.long()))

    def _chosen(self, labels: Integer[Tensor, " batch"] | None) -> Float[Tensor, "batch d_model"] | None:
        """The vectors of the labels, zero for none."""
        if (labels is None) != (self.class_embeddings is None):
            raise ValueError(
                f"labels are {'missing' if labels is None else 'given'}, but the model has n_classes = "
                f"{self.config.n_classes}"
            )
        if labels is None or self.class_embeddings is None:
            return None
        if labels.device.type == "cpu" and not torch.compiler.is_compiling() and labels.numel():
            lowest, highest = int(labels.min()), int(labels.max())
            if lowest < -1 or highest >= self.config.n_classes:
                raise ValueError(f"labels lie in [{lowest}, {highest}], n_classes is {self.config.n_classes}")
        vectors = at_least_float32(self.class_embeddings(labels.long().clamp_min(0)))
        return torch.where((labels >= 0).unsqueeze(-1), vectors, 0.0)
