"""Causal self-attention with rotary positions (arXiv 2104.09864); its state holds every key and value."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from bioaudio_kernels import Ranks
from jaxtyping import Float, Int
from torch import Tensor, nn

from bioaudio_mamba import initialisation
from bioaudio_mamba.layers import Linear
from bioaudio_mamba.one_sequence import check_one_sequence

ROTARY_BASE = 10_000.0


class AttentionState(NamedTuple):
    """All that attention remembers of the past: it grows with it."""

    keys: Float[Tensor, "batch heads past d_head"]
    """Turned to their positions."""
    values: Float[Tensor, "batch heads past d_head"]


class Attention(nn.Module):
    """Each position reads those up to itself, by torch's attention.

    On a GPU torch adds up its gradients in no fixed order; they are the same bits twice where deterministic
    algorithms are asked for (`torch.use_deterministic_algorithms`).

    Raises:
        ValueError: `d_model` is not `n_head` times an even number.
    """

    def __init__(
        self, d_model: int, n_layer: int, n_head: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if d_model % (2 * n_head):
            raise ValueError(f"n_head = {n_head}: a width of {d_model} is not so many heads of even width")
        self.n_layer, self.n_head = n_layer, n_head
        self.in_proj = Linear(d_model, 3 * d_model, bias=False)
        self.out_proj = Linear(d_model, d_model, bias=False)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weights anew."""
        initialisation.linear_(self.in_proj.weight, generator)
        initialisation.linear_(self.out_proj.weight, generator, scale=self.n_layer**-0.5)

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> AttentionState:
        """No past, on `device` (None: where the weights are)."""
        weight = self.in_proj.weight
        shape = (batch_size, self.n_head, 0, weight.shape[1] // self.n_head)
        device = weight.device if device is None else device
        empty = torch.zeros(shape, dtype=weight.dtype, device=device)
        return AttentionState(empty, empty.clone())

    def forward(
        self,
        hidden: Float[Tensor, "batch length d_model"],
        state: AttentionState | None = None,
        *,
        cu_seqlens: Int[Tensor, " borders"] | None = None,
        context: Ranks | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], AttentionState]:
        """Map a sequence that follows on from `state` (None: the start), and return the state after it.

        Raises:
            ValueError: `cu_seqlens` or `context` is given.
        """
        check_one_sequence("an attention block", cu_seqlens, context)
        heads = self.in_proj(hidden).unflatten(-1, (3, self.n_head, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = heads.unbind()
        past = 0 if state is None else state.keys.shape[2]
        queries, keys = _turned(queries, past), _turned(keys, past)
        if state is None:
            values = values.clone()  # a state is no view of activations
        else:
            keys = torch.cat([state.keys.to(keys.dtype), keys], 2)
            values = torch.cat([state.values.to(values.dtype), values], 2)
        y = _attend(queries, keys, values)
        return self.out_proj(y.transpose(1, 2).flatten(2)), AttentionState(keys, values)

    def step(
        self, hidden: Float[Tensor, "batch d_model"], state: AttentionState
    ) -> tuple[Float[Tensor, "batch d_model"], AttentionState]:
        """`forward` over a single time step."""
        y, state = self(hidden.unsqueeze(1), state)
        return y.squeeze(1), state


def _attend(
    queries: Float[Tensor, "batch heads length d_head"],
    keys: Float[Tensor, "batch heads positions d_head"],
    values: Float[Tensor, "batch heads positions d_head"],
) -> Float[Tensor, "batch heads length d_head"]:
    """The queries are those of the last positions."""
    length, positions = queries.shape[2], keys.shape[2]
    if length == positions:
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    mask = None
    if length > 1:
        mask = torch.ones(length, positions, dtype=torch.bool, device=keys.device).tril(positions - length)
    return F.scaled_dot_product_attention(queries, keys, values, mask)


def _turned(
    vectors: Float[Tensor, "batch heads length d_head"], first: int
) -> Float[Tensor, "batch heads length d_head"]:
    """Each pair (i, i + d_head/2) turned by position * base^(-2i/d_head); positions count from `first`."""
    length, width = vectors.shape[-2:]
    frequency = ROTARY_BASE ** (
        -torch.arange(0, width, 2, dtype=torch.float64, device=vectors.device) / width
    )
    position = torch.arange(first, first + length, dtype=torch.float64, device=vectors.device)
    angle = position.unsqueeze(1) * frequency
    cos, sin = angle.cos().to(vectors.dtype), angle.sin().to(vectors.dtype)
    real, imaginary = vectors.chunk(2, -1)
    return torch.cat([real * cos - imaginary * sin, real * sin + imaginary * cos], -1)
