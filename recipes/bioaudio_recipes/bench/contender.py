"""What races: an implementation, and the job that it does at one shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bioaudio_recipes.bench.roofline import Work
from bioaudio_recipes.bench.shape import Shape

FORWARD, BOTH, STEP = "forward", "forward + backward", "step"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One implementation at one shape, its inputs made."""

    passes: Mapping[str, Callable[[], object]]
    """What is timed, by name; memory is measured over the last."""
    results: Callable[[], list[Tensor]]
    """What must agree with ours: outputs, and gradients where there are any. Warms all passes up."""
    keep: Callable[[], object] | None = None
    """A forward pass whose result keeps all that a backward pass needs."""
    inputs: Sequence[Tensor] = ()
    """What is there before `keep` runs."""
    work: Mapping[str, Work] = field(default_factory=dict)
    """What each pass has to do at the least."""
    repeats: int = 1
    """Steps that one call of a pass makes."""
    tokens: int = 0
    """Tokens that a step of a language model takes."""
    has_peak: bool = True
    """Whether the memory that a pass allocates is what it needs."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """An implementation under the name that the tables show."""

    name: str
    prepare: Callable[[Shape], Job]
    peer: str | None = None
    """What `--peers` calls it; None is ours, which always races."""
    package: str | None = None
    """What must be importable."""
    cuda_only: bool = False
    is_same: bool = True
    """Whether it computes what ours does."""
    is_plain: bool = False
    """Whether its time or memory may grow out of bounds with the length: it is tried on short ones first."""

    def job(self, shape: Shape) -> Job:
        """Prepare at a shape; layers that draw their weights from torch's global state leave it as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(shape.seed)
            return self.prepare(shape)


def differentiable(
    run: Callable[[], Tensor],
    inputs: Sequence[Tensor],
    d_output: Tensor,
    *,
    channels_first: bool = False,
    work: Mapping[str, Work] | None = None,
) -> Job:
    """The job of an operation: its forward pass without gradients, and both passes.

    Args:
        run: makes the output out of `inputs`.
        inputs: all whose gradients are wanted.
        d_output: gradient of the output.
        channels_first: whether three-dimensional tensors are (batch, channels, length), where ours are
            (batch, length, channels).
        work: see `Job`.
    """

    def forward() -> Tensor:
        with torch.no_grad():
            return run()

    def both() -> list[Tensor]:
        y = run()
        return [y.detach(), *torch.autograd.grad(y, list(inputs), d_output)]

    def results() -> list[Tensor]:
        return [t.mT if channels_first and t.ndim == 3 else t for t in both()]

    passes = {FORWARD: forward, BOTH: both}
    return Job(passes=passes, results=results, keep=run, inputs=(*inputs, d_output), work=work or {})
