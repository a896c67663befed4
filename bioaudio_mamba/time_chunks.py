"""Exact training over any length in the memory of one chunk of time.

The loss of a causal model over a long sequence is a sum over chunks of time that pass on nothing but a
state: (sum_k, state_k) = chunk(k, state_{k-1}). A first pass runs all chunks but the last without gradients
and keeps the states at their borders. The backward pass takes the chunks from the last to the first, runs
each again, now with gradients, and hands the gradient of its initial state on to the chunk before it. The
result is the gradient of one big pass, for the price of a second forward pass; a single chunk costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from bioaudio_mamba.precision import at_least_float32

Chunk = Callable[[int, int, Any], tuple[Tensor, Any]]
"""(start, end, state before `start`) to (what is summed over the chunks, state before `end`)."""


def sum_over_chunks(
    model: nn.Module, chunk: Chunk, length: int, chunk_length: int, state: Any = None
) -> tuple[Tensor, Any]:
    """Sum what `chunk` gives over a whole sequence, with the activations of one chunk at a time.

    The result is differentiable, once, with respect to the parameters of `model` and `state`, and so is the
    final state; whatever else `chunk` reads counts as constant. To autograd all chunks are one operation:
    each parameter receives one gradient, after the last of them, as DDP and post-accumulate hooks expect.
    Autocast and the random numbers of a chunk are the same in both of its passes.

    Args:
        model: causal, and obeying `y, state = model(x, state)`; its parameters must not change before the
            backward pass.
        chunk: runs `model` over the time steps from `start` up to `end`. Called twice for most chunks, so it
            must be a function of its arguments alone. It may fetch its inputs from elsewhere: a sequence on
            the CPU costs the model's device the memory of one chunk. The sums may have any shape, and the
            state, of tensors in nested tuples, must not be a view of activations.
        length: time steps in all.
        chunk_length: time steps of a chunk, the last one may be shorter.
        state: what came before; None is the start of a sequence.

    Returns:
        the sums, and the state after the last step.

    Raises:
        ValueError: a block of the model is not causal, a length is not positive, or a parameter has a hook on
            its gradient (`Tensor.register_hook`), which would run for every chunk.
    """
    if length < 1 or chunk_length < 1:
        raise ValueError(f"length and chunk_length must be 1 or more, got {length} and {chunk_length}")
    check_causal(model)
    for name, parameter in model.named_parameters():
        if parameter._backward_hooks:
            raise ValueError(
                f"{name} has a hook on its gradient, which would run for every chunk; register it with "
                "register_post_accumulate_grad_hook, which runs once"
            )
    run = _Run(model, chunk, length, chunk_length)
    leaves, run.spec = tree_flatten(state)
    inputs = [*run.parameters, *leaves]
    if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
        sums, *leaves = _SumOverChunks.apply(run, *inputs)
    else:
        sums, *leaves = run.forward(leaves)
    return sums, tree_unflatten(leaves, run.spec)


def check_causal(model: nn.Module) -> None:
    """Refuse a model with a block that sees the future: one whose attribute `is_causal` is False.

    Raises:
        ValueError: naming the block.
    """
    for name, block in model.named_modules():
        if not getattr(block, "is_causal", True):
            raise ValueError(
                f"{name or 'the model'} ({type(block).__name__}) is not causal: what it makes of a chunk of "
                "time depends on later ones, so it cannot train in chunks; use memory 'full' or 'blocks'"
            )


class _Border(NamedTuple):
    """What a chunk starts from."""

    leaves: list[Any]
    spec: TreeSpec
    random: list[Tensor]


class _Graph(NamedTuple):
    """A chunk that ran with gradients: from the leaves of its initial state to its sums and final state."""

    leaves: list[Any]
    sums: Tensor
    final: list[Any]


class _Run:
    """The chunks of one sequence, and what the first pass leaves for the second."""

    def __init__(self, model: nn.Module, chunk: Chunk, length: int, chunk_length: int) -> None:
        every = list(model.parameters())
        self.parameters = [parameter for parameter in every if parameter.requires_grad]
        self.device = every[0].device if every else torch.device("cpu")
        self.spec: TreeSpec
        self._chunk = chunk
        self._ranges = [(t, min(t + chunk_length, length)) for t in range(0, length, chunk_length)]
        self._borders: list[_Border] = []
        self._last: _Graph | None = None
        kind = self.device.type
        self._autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))

    def forward(self, leaves: list[Any], *, keep: bool = False) -> list[Any]:
        """The sums and the leaves of the final state, whose structure is then `spec`."""
        total: Tensor | None = None
        for number, (start, end) in enumerate(self._ranges, 1):
            if keep and number == len(self._ranges):  # its backward pass comes first
                self._last = self._with_gradients(start, end, leaves, self.spec)
                sums = self._last.sums.detach()
                leaves = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in self._last.final]
            else:
                if keep:
                    self._borders.append(_Border(leaves, self.spec, _random_state(self.device)))
                sums, leaves, self.spec = self._pass(start, end, leaves, self.spec)
            total = sums if total is None else total + sums
        return [total, *leaves]

    def backward(self, d_sums: Tensor | None, d_state: list[Tensor | None]) -> list[Tensor | None]:
        """Gradients of the parameters and of the leaves of the initial state."""
        if self._last is None:
            raise RuntimeError("a sum over chunks is differentiable once: run it again for another gradient")
        totals: list[Tensor | None] = [None] * len(self.parameters)
        for start, end in reversed(self._ranges):
            if self._last is None:
                border = self._borders.pop()
                with _random_numbers(border.random, self.device):
                    graph = self._with_gradients(start, end, border.leaves, border.spec)
            else:
                graph, self._last = self._last, None
            gradients, d_state = self._gradients(graph, d_sums, d_state)
            del graph  # before the next chunk runs
            for i, gradient in enumerate(gradients):
                if gradient is not None:
                    total, wide = totals[i], at_least_float32(gradient)
                    totals[i] = wide if total is None else total + wide
        narrow = [
            None if total is None else total.to(parameter.dtype)
            for total, parameter in zip(totals, self.parameters, strict=True)
        ]
        return [*narrow, *d_state]

    def _gradients(
        self, graph: _Graph, d_sums: Tensor | None, d_state: list[Tensor | None]
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """Of the parameters and of the leaves of a chunk's initial state."""
        leaves = graph.leaves
        pairs = [
            (output, gradient)
            for output, gradient in zip([graph.sums, *graph.final], [d_sums, *d_state], strict=True)
            if gradient is not None and output.requires_grad
        ]
        if not pairs:
            return [None] * len(self.parameters), [None] * len(leaves)
        outputs, d_outputs = zip(*pairs, strict=True)
        places = [i for i, leaf in enumerate(leaves) if _is_floating(leaf)]
        inputs = [*self.parameters, *(leaves[i] for i in places)]
        found = torch.autograd.grad(outputs, inputs, d_outputs, allow_unused=True)
        d_leaves: list[Tensor | None] = [None] * len(leaves)
        for place, gradient in zip(places, found[len(self.parameters) :], strict=True):
            d_leaves[place] = gradient
        return list(found[: len(self.parameters)]), d_leaves

    def _with_gradients(self, start: int, end: int, leaves: list[Any], spec: TreeSpec) -> _Graph:
        leaves = [leaf.detach().requires_grad_() if _is_floating(leaf) else leaf for leaf in leaves]
        with torch.enable_grad():
            sums, final, self.spec = self._pass(start, end, leaves, spec)
        return _Graph(leaves, sums, final)

    def _pass(
        self, start: int, end: int, leaves: list[Any], spec: TreeSpec
    ) -> tuple[Tensor, list[Any], TreeSpec]:
        kind, dtype, enabled = self._autocast
        # Without its cache: a copy of a weight made here without gradients must not serve later passes.
        with torch.autocast(kind, dtype, enabled, cache_enabled=False):
            sums, state = self._chunk(start, end, tree_unflatten(leaves, spec))
        return sums, *tree_flatten(state)


class _SumOverChunks(torch.autograd.Function):
    """Inputs: the run, its parameters, and the leaves of the initial state."""

    @staticmethod
    def forward(ctx: Any, run: _Run, *inputs: Any) -> Any:
        parameters = inputs[: len(run.parameters)]
        ctx.run = run
        ctx.save_for_backward(*parameters)  # for autograd to notice when they change too early
        ctx.set_materialize_grads(False)
        results = run.forward(list(inputs[len(parameters) :]), keep=True)
        ctx.mark_non_differentiable(*(x for x in results if isinstance(x, Tensor) and not _is_floating(x)))
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert len(ctx.saved_tensors) == len(ctx.run.parameters)
        d_sums, *d_state = gradients
        return None, *ctx.run.backward(d_sums, d_state)


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def _random_state(device: torch.device) -> list[Tensor]:
    """Of torch's global generators that a pass on the device may draw from."""
    on_gpu = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *on_gpu]


@contextmanager
def _random_numbers(state: list[Tensor], device: torch.device) -> Iterator[None]:
    """Draw the numbers that followed on `state`, and leave the generators as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.set_rng_state(state[0])
        if device.type == "cuda":
            torch.cuda.set_rng_state(state[1], device)
        yield
