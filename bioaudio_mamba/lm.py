"""Causal language models: a backbone that obeys the state contract, and a linear head over the vocabulary."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor, nn

from bioaudio_mamba import initialisation
from bioaudio_mamba.backbone import Mamba
from bioaudio_mamba.config import MambaConfig
from bioaudio_mamba.cross_entropy import linear_cross_entropy
from bioaudio_mamba.layers import Linear
from bioaudio_mamba.residual import ModelState
from bioaudio_mamba.sashimi import Sashimi, SashimiConfig


class LanguageModel(nn.Module):
    """Predicts each next token from all before it; what `CausalLM` and `WaveformLM` have in common."""

    config: Any
    backbone: Any
    lm_head: Linear

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> ModelState:
        """The state before the first token, all zeros, on `device` (None: where the weights are)."""
        return self.backbone.initial_state(batch_size, device)

    def forward(
        self,
        tokens: Integer[Tensor, "batch length"],
        state: ModelState | None = None,
        **options: Any,
    ) -> tuple[Float[Tensor, "batch length vocab"], ModelState]:
        """Logits of the token after each position, and the state after the last.

        Arguments are those of the backbone, `Mamba.forward` or `Sashimi.forward`.
        """
        hidden, new_state = self.backbone(tokens, state, **options)
        return self.lm_head(hidden), new_state

    def nll(
        self,
        tokens: Integer[Tensor, "batch length"],
        targets: Int64[Tensor, "batch length"],
        state: ModelState | None = None,
        **options: Any,
    ) -> tuple[Float[Tensor, "batch length"], ModelState]:
        """Negative log-likelihood of each target after the tokens up to its position, in nats, and the state.

        As from the logits of `forward`, which are never in memory all at once.

        Args:
            tokens, state: see `forward`.
            targets: ids in [0, vocab_size), as a rule the tokens one position on.
            options: further keyword arguments of the backbone.
        """
        hidden, new_state = self.backbone(tokens, state, **options)
        return linear_cross_entropy(hidden, self.lm_head.weight, targets, self.lm_head.bias), new_state

    def step(
        self, tokens: Integer[Tensor, " batch"], state: ModelState, **options: Any
    ) -> tuple[Float[Tensor, "batch vocab"], ModelState]:
        """Logits of the token after `tokens`, one of each sequence, and the state after them.

        `options` are further keyword arguments of the backbone's step.
        """
        hidden, state = self.backbone.step(tokens, state, **options)
        return self.lm_head(hidden), state

    @torch.no_grad()
    def prefill(
        self,
        tokens: Integer[Tensor, "batch length"],
        state: ModelState | None = None,
        chunk_length: int = 65536,
        **options: Any,
    ) -> tuple[Float[Tensor, "batch vocab"], ModelState]:
        """Read a prompt of any length in the memory of `chunk_length` tokens, without gradients.

        Args:
            tokens: the prompt, at least one token; it may live on the CPU while the model is on a GPU.
            state: what came before; None is the start of a sequence.
            chunk_length: tokens read at once; the result does not depend on it beyond rounding.
            options: further keyword arguments of the backbone, `labels` for one.

        Returns:
            logits of the token after the prompt, and the state after it.

        Raises:
            ValueError: the prompt is empty, or `chunk_length` is not positive.
        """
        if tokens.shape[1] == 0:
            raise ValueError("an empty prompt predicts nothing: give at least one token")
        if chunk_length < 1:
            raise ValueError(f"chunk_length must be positive, got {chunk_length}")
        device = self.lm_head.weight.device
        *chunks, last = tokens.split(chunk_length, dim=1)
        for chunk in chunks:
            _, state = self.backbone(chunk.to(device), state, **options)
        hidden, new_state = self.backbone(last.to(device), state, **options)
        return self.lm_head(hidden[:, -1]), new_state


class CausalLM(LanguageModel):
    """A language model over tokens: Mamba blocks, and a head that may share the embedding's weights.

    Args:
        config: the sizes.
        generator: draws the weights; None uses torch's global generator.
    """

    config: MambaConfig
    backbone: Mamba

    def __init__(self, config: MambaConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.backbone = Mamba(config, generator)
        self.lm_head = Linear(config.d_model, config.vocab_size, bias=False)
        self._reset_head(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew, as construction does: the second half of a start on the meta device.

        After `to_empty`, which gives a tied head weights of its own, this ties it again.
        """
        self.backbone.reset_parameters(generator)
        self._reset_head(generator)

    def tie_weights(self) -> None:
        """Make the head share the embedding's weights."""
        self.lm_head.weight = self.backbone.embeddings.weight

    def _reset_head(self, generator: torch.Generator | None) -> None:
        if self.config.tie_embeddings:
            self.tie_weights()
        else:
            initialisation.linear_(self.lm_head.weight, generator)


class WaveformLM(LanguageModel):
    """A language model over the codes of a waveform: SaShiMi's network, and a head with a bias.

    Args:
        config: the sizes.
        generator: draws the weights; None uses torch's global generator.
    """

    config: SashimiConfig
    backbone: Sashimi

    def __init__(self, config: SashimiConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.backbone = Sashimi(config, generator)
        self.lm_head = Linear(config.d_model, config.vocab_size)
        self._reset_head(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew, as construction does: the second half of a start on the meta device."""
        self.backbone.reset_parameters(generator)
        self._reset_head(generator)

    def _reset_head(self, generator: torch.Generator | None) -> None:
        initialisation.linear_(self.lm_head.weight, generator)
        initialisation.bias_(self.lm_head.bias, self.lm_head.in_features, generator)
