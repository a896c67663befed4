"""Sampling in whole cycles of the poolings, after which a network's state has the same shapes again.

A cycle is one function of a state: on a CPU it runs as it is, on a GPU it is recorded once as a CUDA graph
and launched again for every cycle, drawing included, so that the host does nothing per sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only


class Place(NamedTuple):
    """Where sampling stands."""

    code: Int64[Tensor, " rows"]
    """The last code, which is heard next."""
    state: Any
    """Before that code is heard."""
    labels: Int64[Tensor, " rows"] | None
    """The classes, -1 for none, for a network with classes."""


class Drawn(NamedTuple):
    """Samples that were drawn."""

    codes: Int64[Tensor, "rows samples"]
    log_p: Float[Tensor, "rows samples"]
    """Log-probability of each given all before, under the network itself, in nats."""


class Stepping(Protocol):
    """What has the `step` of a `WaveformLM`, to logits or to what its own `Draw` takes in their place."""

    def step(
        self, tokens: Int64[Tensor, " batch"], state: Any, *, labels: Int64[Tensor, " batch"] | None = ...
    ) -> tuple[Float[Tensor, "batch vocab"], Any]: ...


Advance = Callable[[Place, Tensor], tuple[Place, Drawn]]
"""Draws as many samples as there are random numbers (clips, samples)."""
Draw = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Draws codes from the result of a step and random numbers (clips,): a `Drawing`, as a rule."""


def stepwise(model: Stepping, drawing: Draw) -> Advance:
    """Draw sample after sample, any number of them from any state."""

    def advance(place: Place, uniform: Float[Tensor, "clips samples"]) -> tuple[Place, Drawn]:
        code, state, labels = place
        options = {} if labels is None else {"labels": labels}
        codes, log_ps = [], []
        for number in uniform.unbind(1):
            logits, state = model.step(code, state, **options)
            code, log_p = drawing(logits, number)
            codes.append(code)
            log_ps.append(log_p)
        return Place(code, state, labels), Drawn(torch.stack(codes, 1), torch.stack(log_ps, 1))

    return advance


class Recorded:
    """A cycle whose kernels are recorded at its first call, with place and numbers in fixed memory.

    Args:
        cycle: draws a fixed number of samples from a state at the start of a cycle.
        record: makes of a function without arguments one that does the same again; see `cuda_graph`.
    """

    def __init__(self, cycle: Advance, record: Callable[[Callable[[], Drawn]], Callable[[], Drawn]]) -> None:
        self.cycle = cycle
        self.record = record
        self._here: Place | None = None
        self._numbers: Tensor
        self._replay: Callable[[], Drawn]

    def __call__(self, place: Place, uniform: Float[Tensor, "clips samples"]) -> tuple[Place, Drawn]:
        """As the cycle itself; the place that is returned is overwritten by the next call."""
        if self._here is None:
            self._here, self._numbers = tree_map_only(Tensor, torch.clone, place), uniform.clone()
            self._replay = self.record(self._advance)
        here = self._here
        assert here is not None
        if place is not here:
            _copy(here, place)
        self._numbers.copy_(uniform)
        return here, Drawn(*(part.clone() for part in self._replay()))

    def _advance(self) -> Drawn:
        assert self._here is not None
        after, drawn = self.cycle(self._here, self._numbers)
        _copy(self._here, after)
        return drawn


def _copy(here: Any, there: Any) -> None:
    """Overwrite the tensors of a tree by those of another of the same shapes."""
    (mine, spec), (others, other_spec) = tree_flatten(here), tree_flatten(there)
    assert spec == other_spec, "a cycle must end in the shapes that it starts from"
    for one, other in zip(mine, others, strict=True):
        if isinstance(one, Tensor):
            one.copy_(other)
