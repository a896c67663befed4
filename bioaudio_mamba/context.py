"""Context parallelism: one sequence over several ranks, each of which holds a shard, a run of its steps.

    mesh = init_device_mesh("cuda", (data, context), mesh_dim_names=("data", "context"))
    group = ContextGroup.of(mesh["context"])
    logits, state = model(tokens[:, shard_of(group, tokens.shape[1])], state, context=group)

The model stays what it is: `state` is the state before the whole sequence, the result the one after it, both
the same on every rank, and so are their gradients. Gradients of parameters are those of the shard, and add up
over the ranks. Inside, a scan hands on its state (see `bioaudio_kernels.ranks`) and a convolution its last
inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from bioaudio_kernels import Ranks
from bioaudio_kernels.causal_conv1d.final_state import last_inputs
from jaxtyping import Float, Int
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True)
class ContextGroup:
    """The ranks of one sequence on torch.distributed; how long a rank waits is up to its process group."""

    group: dist.ProcessGroup
    rank: int
    """This process among them, in the order of the sequence."""
    size: int

    @classmethod
    def of(cls, mesh: DeviceMesh) -> ContextGroup:
        """The ranks of a mesh of one dimension."""
        return cls(mesh.get_group(), mesh.get_local_rank(), mesh.size())

    def gather(self, tensor: Tensor) -> Tensor:
        """See `Ranks`.

        Raises:
            ConnectionError: another rank has died, does not come in time, or brings something else.
        """
        every = tensor.new_empty(self.size, *tensor.shape)
        try:
            dist.all_gather(list(every.unbind()), tensor.contiguous(), group=self.group)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise ConnectionError(
                f"context rank {self.rank} of {self.size} waited in vain for the others: one has died, "
                f"hangs, or brought another shape than {tuple(tensor.shape)} ({reason})"
            ) from error
        return every


def shard_of(ranks: Ranks, length: int) -> slice:
    """The steps of this rank in a sequence of `length`: as many as the others have, or one more or less."""
    share, rest = divmod(length, ranks.size)
    start = ranks.rank * share + min(ranks.rank, rest)
    return slice(start, start + share + (ranks.rank < rest))


@_disable_dynamo
def exchange_tails(
    ranks: Ranks,
    x: Float[Tensor, "batch length channels"],
    state: Float[Tensor, "sequences rows channels"],
    cu_seqlens: Int[Tensor, " borders"] | None,
) -> tuple[
    Float[Tensor, "batch length channels"],
    Float[Tensor, "sequences rows channels"],
    Float[Tensor, "sequences rows channels"] | None,
]:
    """Give the last inputs of a convolution to the rank behind, and take those of the rank before.

    Args:
        ranks: of the sequence.
        x: inputs of this rank's shard. The convolution must read the x that this returns, and nothing else:
            the backward pass adds what the other rank owes to x into the gradient that it gets, in place.
        state: the inputs before the sequence, or before each of the shard's packed sequences.
        cu_seqlens: borders of the shard, if it is packed.

    Returns:
        x; the state that enters the shard; the state that leaves the last shard, or None if packed.

    Raises:
        ValueError: if the shard is too short for the rank behind.
    """
    rows, length = state.shape[1], x.shape[1]
    packed = cu_seqlens is not None
    if length < rows and not (packed and state.shape[0] > 1):
        raise ValueError(
            f"context rank {ranks.rank} of {ranks.size} holds {length} steps of a sequence; a convolution of "
            f"width {rows + 1} needs {rows} or more on each: use fewer ranks or longer sequences"
        )
    if not packed:
        return _ExchangeTails.apply(ranks, x, state, None, None)
    shown = min(rows, length)  # steps that can be in the tail, and those of the last sequence among them
    begin = (shown - (cu_seqlens[-1] - cu_seqlens[-2])).clamp(min=0)
    borders = torch.stack([begin, torch.full_like(begin, shown)])
    x, entering, _ = _ExchangeTails.apply(ranks, x, state[:1], state[-1:], borders)
    return x, torch.cat([entering, state[1:]]), None


def _return_tails(ctx: Any, dx: Tensor, d_entering: Tensor, d_leaving: Tensor) -> tuple[Any, ...]:
    ranks, (borders,) = ctx.ranks, ctx.saved_tensors
    every = ranks.gather(d_entering)
    d_tail = d_leaving if ranks.rank == ranks.size - 1 else every[ranks.rank + 1]
    shown = min(dx.shape[1], d_tail.shape[1])
    d_state, d_last = every[0], None
    if borders is not None:
        # The tail is linear in what it is made of: its gradient needs no values.
        end, last_state = torch.zeros_like(dx[:, dx.shape[1] - shown :]), torch.zeros_like(d_tail)
        with torch.enable_grad():
            made_of = end.requires_grad_(), last_state.requires_grad_()
            tail = last_inputs(*made_of, borders)
        d_tail, d_last = torch.autograd.grad(tail, made_of, d_tail)
        d_state = d_state if ranks.rank == 0 else torch.zeros_like(d_state)
    if shown:
        dx[:, dx.shape[1] - shown :] += d_tail
    return None, dx, d_state, d_last, None


class _ExchangeTails(torch.autograd.Function):
    """(x, state that enters here, state that leaves the last rank) of x and the state before the first rank.

    With `borders` of packed sequences, the tail is that of the last one, which began after `last_state` if
    its steps are too few.
    """

    @staticmethod
    def forward(
        ctx: Any, ranks: Ranks, x: Tensor, state: Tensor, last_state: Tensor | None, borders: Tensor | None
    ) -> Any:
        tail = _tail(x, state, last_state, borders)
        every = ranks.gather(tail)
        ctx.ranks = ranks
        ctx.save_for_backward(borders)
        return x.view_as(x), state.clone() if ranks.rank == 0 else every[ranks.rank - 1], every[-1].clone()

    backward: Any = staticmethod(once_differentiable(_return_tails))


def _tail(x: Tensor, state: Tensor, last_state: Tensor | None, borders: Tensor | None) -> Tensor:
    end = x[:, max(0, x.shape[1] - state.shape[1]) :]
    return end if last_state is None or borders is None else last_inputs(end, last_state, borders)
