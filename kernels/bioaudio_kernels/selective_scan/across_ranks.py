"""The selective scan of one sequence over several ranks: states pass between its first and second step.

Forward, each rank finds the state at the end of its shard from zero; one gather later it knows the state that
enters its shard, and makes its outputs. Backward is the mirror image: each rank finds the gradient at the
state that enters its shard from its own outputs; one gather later it knows the gradient at the state that
leaves it. Backends differ in `Pieces` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from bioaudio_kernels.ranks import Ranks, gather_shards, gather_states, states_between

Tensors = tuple[Any, ...]
"""x, dt, A, B, C, D, z and dt_bias of a scan; None where absent."""


@runtime_checkable
class Pieces(Protocol):
    """A scan and its gradient, each with a halt where the ranks tell each other of their shards.

    States are (sequences, d_inner, d_state), float32 or more, complex if A is.
    """

    def forward(
        self, tensors: Tensors, start: Tensor, enter: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensors]:
        """y, the final state, and what `backward` needs.

        `enter` takes the states that the sequences reach from `start`, and the sum of dt over each of them,
        (sequences, d_inner), or of several packed ones anything of that shape; it gives the states that they
        really start from.
        """
        ...

    def backward(
        self, tensors: Tensors, kept: Tensors, dy: Tensor, d_final: Tensor, enter: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor | None, ...]:
        """Gradients of the tensors and of the initial state.

        `enter` takes those of the initial state that belong to dy and d_final, and gives the gradient that
        the final state really has.
        """
        ...


def scan_across_ranks(
    pieces: Pieces,
    ranks: Ranks,
    tensors: Tensors,
    rates: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """y and the final state of `selective_scan` with `ranks`.

    Args:
        pieces: the backend.
        ranks: the ranks that share the sequence.
        tensors: what the backend reads.
        rates: A in the dtype of the states.
        initial_state: of this rank's sequences, or None.
        cu_seqlens: borders of this rank's packed sequences, or None.
    """
    packed = cu_seqlens is not None
    sequences = cu_seqlens.shape[0] - 1 if packed else tensors[0].shape[0]
    return _AcrossRanks.apply(ranks, pieces, rates.detach(), sequences, packed, *tensors, initial_state)


def _differentiate(ctx: Any, dy: Tensor | None, d_last: Tensor | None) -> tuple[Any, ...]:
    ranks, packed = ctx.ranks, ctx.packed
    (x, *others, rates, sigmas), kept = _split(ctx.saved_tensors, 10)
    tensors = (x, *others)
    if dy is None:
        dy = x.new_zeros(()).expand(x.shape)
    nothing = rates.new_zeros(ctx.sequences, *rates.shape)
    d_final = nothing if d_last is None else d_last
    states = []

    def enter(own: Tensor) -> Tensor:
        nonlocal states
        every = gather_states(ranks, own[:1] if packed else own).flip(0)
        behind = nothing[:1] if packed else d_final
        states = states_between(behind, every, sigmas.flip(0), rates.conj())
        entering = states[ranks.size - 1 - ranks.rank]
        return torch.cat([d_final[:-1], d_final[-1:] + entering]) if packed else entering

    alone = d_final if packed else nothing
    *gradients, d_initial = ctx.pieces.backward(tensors, kept, dy, alone, enter)
    if ctx.state_dtype is None:
        d_initial = None
    elif not packed:
        d_initial = states[-1].to(ctx.state_dtype)
    else:
        d_initial = d_initial.to(ctx.state_dtype, copy=True)
        if ranks.rank > 0:  # where the state of the rank before entered instead
            d_initial[:1] = 0
    cast = [
        None if tensor is None else gradient.to(tensor.dtype)
        for tensor, gradient in zip(tensors, gradients, strict=True)
    ]
    return None, None, None, None, None, *cast, d_initial


class _AcrossRanks(torch.autograd.Function):
    """Of packed sequences the first goes on from the rank before, and the last goes on at the one after."""

    @staticmethod
    def forward(
        ctx: Any, ranks: Ranks, pieces: Pieces, rates: Tensor, sequences: int, packed: bool, *given: Any
    ) -> Any:
        *tensors, initial_state = given
        start = rates.new_zeros(sequences, *rates.shape)
        alone = torch.zeros_like(start)  # what the shard starts from before it knows what enters
        if initial_state is not None:
            start.copy_(initial_state)
        if packed:
            alone[1:] = start[1:]
        states, sigmas = [], torch.empty(0)

        def enter(end: Tensor, sigma: Tensor) -> Tensor:
            nonlocal states, sigmas
            if packed and sequences > 1:  # a border
                sigma = torch.full_like(sigma, torch.inf)
            last = slice(-1, None) if packed else slice(None)
            ends, sigmas = gather_shards(ranks, end[last], sigma[last])
            states = states_between(start[:1] if packed else start, ends, sigmas, rates)
            entering = states[ranks.rank]
            return torch.cat([entering, start[1:]]) if packed else entering

        y, final_state, kept = pieces.forward(tuple(tensors), alone, enter)
        ctx.save_for_backward(*tensors, rates, sigmas, *kept)
        ctx.set_materialize_grads(False)
        ctx.ranks, ctx.pieces, ctx.packed, ctx.sequences = ranks, pieces, packed, sequences
        ctx.state_dtype = None if initial_state is None else initial_state.dtype
        return y, final_state if packed else states[-1]

    backward: Any = staticmethod(once_differentiable(_differentiate))


def _split(tensors: Tensors, count: int) -> tuple[Tensors, Tensors]:
    return tensors[:count], tensors[count:]


@dataclass(frozen=True)
class TwoPasses:
    """Pieces of a backend that cannot halt: its scan runs once for what leaves the shard, once for good."""

    scan: Callable[..., tuple[Tensor, Tensor]]
    """`selective_scan` on one backend, but for the initial state, which is its last argument."""
    dt_softplus: bool

    def forward(
        self, tensors: Tensors, start: Tensor, enter: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensors]:
        """See `Pieces`."""
        _, end = self.scan(*tensors, start)
        dtype = start.real.dtype if start.is_complex() else start.dtype
        sigma = sum_of_dt(tensors[1].expand(tensors[0].shape), tensors[7], self.dt_softplus, dtype)
        start = enter(end, sigma.expand(len(start), -1))
        y, final_state = self.scan(*tensors, start)
        return y, final_state, (start,)

    def backward(
        self, tensors: Tensors, kept: Tensors, dy: Tensor, d_final: Tensor, enter: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor | None, ...]:
        """See `Pieces`; what the scan keeps is made anew."""
        leaves: list[Any] = [None if t is None else t.detach().requires_grad_() for t in (*tensors, *kept)]
        with torch.enable_grad():
            outputs = self.scan(*leaves)
        (own,) = torch.autograd.grad(outputs, [leaves[-1]], [dy, d_final], retain_graph=True)
        present = [leaf for leaf in leaves if leaf is not None]
        found = iter(torch.autograd.grad(outputs, present, [dy, enter(own)]))
        return tuple(None if leaf is None else next(found) for leaf in leaves)


def sum_of_dt(dt: Tensor, dt_bias: Tensor | None, dt_softplus: bool, dtype: torch.dtype) -> Tensor:
    """delta of `selective_scan`, summed over the length: (batch, d_inner)."""
    delta = dt.to(dtype) if dt_bias is None else dt.to(dtype) + dt_bias.to(dtype)
    return (F.softplus(delta) if dt_softplus else delta).sum(1)
