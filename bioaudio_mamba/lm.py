"""The causal language model: a Mamba backbone and a linear head over the vocabulary."""

from __future__ import annotations

import torch
from bioaudio_kernels import Ranks
from jaxtyping import Float, Int, Int64, Integer
from torch import Tensor, nn

from bioaudio_mamba import initialisation
from bioaudio_mamba.backbone import Mamba, ModelState
from bioaudio_mamba.config import MambaConfig
from bioaudio_mamba.cross_entropy import linear_cross_entropy
from bioaudio_mamba.layers import Linear


class CausalLM(nn.Module):
    """Predicts each next token from all before it.

    Args:
        config: the sizes.
        generator: draws the weights; None uses torch's global generator.
    """

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

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> ModelState:
        """The state before the first token, all zeros, on `device` (None: where the weights are)."""
        return self.backbone.initial_state(batch_size, device)

    def forward(
        self,
        tokens: Integer[Tensor, "batch length"],
        state: ModelState | None = None,
        *,
        cu_seqlens: Int[Tensor, " borders"] | None = None,
        context: Ranks | None = None,
    ) -> tuple[Float[Tensor, "batch length vocab"], ModelState]:
        """Logits of the token after each position, and the state after the last; see `Mamba.forward`."""
        hidden, new_state = self.backbone(tokens, state, cu_seqlens=cu_seqlens, context=context)
        return self.lm_head(hidden), new_state

    def nll(
        self,
        tokens: Integer[Tensor, "batch length"],
        targets: Int64[Tensor, "batch length"],
        state: ModelState | None = None,
        *,
        cu_seqlens: Int[Tensor, " borders"] | None = None,
        context: Ranks | None = None,
    ) -> tuple[Float[Tensor, "batch length"], ModelState]:
        """Negative log-likelihood of each target after the tokens up to its position, in nats, and the state.

        As from the logits of `forward`, which are never in memory all at once.

        Args:
            tokens, state, cu_seqlens, context: see `Mamba.forward`.
            targets: ids in [0, vocab_size), as a rule the tokens one position on.
        """
        hidden, new_state = self.backbone(tokens, state, cu_seqlens=cu_seqlens, context=context)
        return linear_cross_entropy(hidden, self.lm_head.weight, targets), new_state

    def step(
        self, tokens: Integer[Tensor, " batch"], state: ModelState
    ) -> tuple[Float[Tensor, "batch vocab"], ModelState]:
        """Logits of the token after `tokens`, one of each sequence, and the state after them."""
        hidden, state = self.backbone.step(tokens, state)
        return self.lm_head(hidden), state

    @torch.no_grad()
    def prefill(
        self,
        tokens: Integer[Tensor, "batch length"],
        state: ModelState | None = None,
        chunk_length: int = 65536,
    ) -> tuple[Float[Tensor, "batch vocab"], ModelState]:
        """Read a prompt of any length in the memory of `chunk_length` tokens, without gradients.

        Args:
            tokens: the prompt, at least one token; it may live on the CPU while the model is on a GPU.
            state: what came before; None is the start of a sequence.
            chunk_length: tokens read at once; the result does not depend on it beyond rounding.

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
            _, state = self.backbone(chunk.to(device), state)
        hidden, new_state = self.backbone(last.to(device), state)
        return self.lm_head(hidden[:, -1]), new_state
