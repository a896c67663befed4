"""Ranks that share one sequence: what they ask of each other, and the recurrence from shard to shard.

Each rank holds one shard, a run of consecutive steps; shards follow each other in rank order. Over a whole
shard the scan's recurrence is h <- exp(A sigma) h + end, where sigma is the shard's sum of dt and `end` the
state that it reaches from zero. So B * D * (N + 1) numbers of each rank tell every rank what enters it.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Inexact
from torch import Tensor


@runtime_checkable
class Ranks(Protocol):
    """The ranks of one sequence, as one of them sees them. Ops take them without knowing how they talk."""

    @property
    def rank(self) -> int:
        """This rank, from 0 to size - 1: the place of its shard in the sequence."""
        ...

    @property
    def size(self) -> int:
        """How many share the sequence."""
        ...

    def gather(self, tensor: Tensor) -> Tensor:
        """(size, *tensor.shape): the tensor of every rank, in order; not differentiable.

        All ranks call it in the same order, with tensors of one shape and dtype.
        """
        ...


def gather_shards(
    ranks: Ranks,
    end: Inexact[Tensor, "sequences d_inner d_state"],
    sigma: Float[Tensor, "sequences d_inner"],
) -> tuple[Inexact[Tensor, "ranks sequences d_inner d_state"], Float[Tensor, "ranks sequences d_inner"]]:
    """`end` and `sigma` of every rank, in one collective."""
    values = torch.view_as_real(end).flatten(-2) if end.is_complex() else end
    every = ranks.gather(torch.cat([values, sigma.unsqueeze(-1).to(values.dtype)], -1))
    ends, sigmas = every[..., :-1], every[..., -1]
    return (_as_complex(ends) if end.is_complex() else ends), sigmas


def gather_states(
    ranks: Ranks, state: Inexact[Tensor, "sequences d_inner d_state"]
) -> Inexact[Tensor, "ranks sequences d_inner d_state"]:
    """`state` of every rank; complex numbers travel as pairs, which every transport can carry."""
    if not state.is_complex():
        return ranks.gather(state.contiguous())
    return _as_complex(ranks.gather(torch.view_as_real(state.resolve_conj()).flatten(-2)))


def states_between(
    start: Inexact[Tensor, "sequences d_inner d_state"],
    ends: Inexact[Tensor, "ranks sequences d_inner d_state"],
    sigmas: Float[Tensor, "ranks sequences d_inner"],
    A: Inexact[Tensor, "d_inner d_state"],
) -> list[Tensor]:
    """The states that enter each shard, and last the one that leaves the last: ranks + 1 like `start`.

    An infinite sigma stands for a shard that holds a border between sequences: nothing passes through it.
    Gradients run the other way: start from the gradient of the last state, with each rank's own gradient at
    the state that enters it, both from the last rank to the first, and the conjugate of A.
    """
    decays = torch.exp(A * sigmas.unsqueeze(-1)).masked_fill(sigmas.isinf().unsqueeze(-1), 0)
    states = [start]
    for decay, end in zip(decays, ends, strict=True):
        states.append(torch.addcmul(end, decay, states[-1]))
    return states


def _as_complex(pairs: Tensor) -> Tensor:
    return torch.view_as_complex(pairs.unflatten(-1, (-1, 2)).contiguous())
