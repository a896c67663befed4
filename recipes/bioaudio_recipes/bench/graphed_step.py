"""A model's decoding step as one CUDA graph: the host launches a step at once, not some hundred kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from bioaudio_mamba import BlockState, CausalLM
from bioaudio_recipes.cuda_graph import Record, cuda_graph


class GraphedStep:
    """`CausalLM.step` for a fixed number of sequences, whose tokens and state lie in fixed places.

    Args:
        model: on a GPU; its weights may change between steps.
        batch_size: sequences at once.
        record: see `cuda_graph`.
    """

    def __init__(
        self,
        model: CausalLM,
        batch_size: int,
        record: Record = cuda_graph,
    ) -> None:
        self.model = model
        self.tokens = torch.zeros(batch_size, dtype=torch.long, device=model.lm_head.weight.device)
        _, state = model.step(self.tokens, model.initial_state(batch_size))
        # Laid out in memory as a step leaves its state, so that all layers' are copied by one kernel.
        self.state = tuple(BlockState(torch.zeros_like(s.conv), torch.zeros_like(s.ssm)) for s in state)
        self._replay = record(self._advance)
        self.reset()

    def reset(self) -> None:
        """Go back to the state before the first token."""
        for layer in self.state:
            layer.conv.zero_()
            layer.ssm.zero_()

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits (batch, vocab) of the token after `tokens` (batch,); the state moves on."""
        self.tokens.copy_(tokens)
        return self._replay().clone()

    def _advance(self) -> Tensor:
        logits, state = self.model.step(self.tokens, self.state)
        for here, new in zip(zip(*self.state, strict=True), zip(*state, strict=True), strict=True):
            torch._foreach_copy_(here, new)  # pyright: ignore[reportPrivateImportUsage]
        return logits
