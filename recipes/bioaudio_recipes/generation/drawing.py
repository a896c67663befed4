"""Drawing the next code from logits, with random numbers that belong to a clip and not to its batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

LARGEST = 1 - 2**-22
"""Of the random numbers: times any sum in float32, it stays below that sum."""
MOST_GUIDANCE = 1000
"""So that guided logits stay finite."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How a code is drawn from the probabilities of all codes. The defaults draw as the network says.

    Raises:
        ValueError: a value is out of its range.
    """

    temperature: float = 1.0
    """Divides the logits: below 1 the likely becomes likelier; 0 always takes the likeliest code."""
    top_k: int | None = None
    """Draw from this many codes only, the likeliest."""
    top_p: float | None = None
    """Draw from the likeliest codes only that together have this probability, at least one."""
    guidance: float = 1.0
    """Scale of classifier-free guidance (arXiv 2207.12598): the logits to draw from become unconditional +
    guidance * (conditional - unconditional), before temperature, top-k and top-p; 1 is the network's own."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"--temperature must be 0 or more, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"--top-k must be 1 or more, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"--top-p must lie in (0, 1], got {self.top_p}")
        if not 0 <= self.guidance <= MOST_GUIDANCE:
            raise ValueError(f"--guidance must lie in [0, {MOST_GUIDANCE}], got {self.guidance}")

    @property
    def guided(self) -> bool:
        """Whether a clip takes two rows of logits: those with its label for all clips, then those without."""
        return self.guidance != 1

    def __call__(
        self, logits: Float[Tensor, "rows vocab"], uniform: Float[Tensor, " clips"]
    ) -> tuple[Int64[Tensor, " rows"], Float[Tensor, " rows"]]:
        """A code for each row, and its log-probability under the network itself, in nats.

        Args:
            logits: of the codes; a row for each clip, or two if `guided`, which get the same code.
            uniform: a random number in [0, 1) for each clip: the code is where the cumulated probabilities
                pass it, so that a clip depends on nothing but its own logits and number.
        """
        log_p = wanted = torch.log_softmax(logits.float(), -1)
        if self.guided:
            wanted = self._guide(*log_p.chunk(2))
        codes = wanted.argmax(-1) if self.temperature == 0 else self._drawn(wanted, uniform)
        if self.guided:
            codes = codes.repeat(2)
        return codes, log_p.gather(-1, codes.unsqueeze(-1)).squeeze(-1)

    def _guide(
        self, conditional: Float[Tensor, "clips vocab"], unconditional: Float[Tensor, "clips vocab"]
    ) -> Float[Tensor, "clips vocab"]:
        guided = unconditional + self.guidance * (conditional - unconditional)
        known = conditional.isfinite() & unconditional.isfinite()
        return torch.log_softmax(torch.where(known, guided, conditional), -1)

    def _drawn(
        self, log_p: Float[Tensor, "clips vocab"], uniform: Float[Tensor, " clips"]
    ) -> Int64[Tensor, " clips"]:
        if self.temperature != 1:
            log_p = torch.log_softmax((log_p - log_p.amax(-1, keepdim=True)) / self.temperature, -1)
        p = log_p.exp()
        if self.top_k is not None and self.top_k < p.shape[-1]:
            least = p.topk(self.top_k, -1).values[..., -1:]
            p = torch.where(p >= least, p, 0.0)
        if self.top_p is not None:
            falling = p.sort(-1, descending=True).values
            before = falling.cumsum(-1) - falling
            kept = torch.where(before < self.top_p * falling.sum(-1, keepdim=True), falling, torch.inf)
            p = torch.where(p >= kept.amin(-1, keepdim=True), p, 0.0)
        total = p.cumsum(-1)
        # The first code whose cumulated probability lies above the number, so never one of probability 0.
        passed = total <= uniform.clamp_max(LARGEST).unsqueeze(-1) * total[..., -1:]
        return passed.sum(-1)


class ClipNumbers:
    """Random numbers for the samples of clips: those of a clip depend on the seed and its number alone.

    Args:
        seed: of the run.
        clips: numbers of the clips side by side.
    """

    def __init__(self, seed: int, clips: range) -> None:
        self._generators = [np.random.default_rng([seed, clip]) for clip in clips]

    def next(self, samples: int) -> Float[Tensor, "batch samples"]:
        """The next numbers of every clip, in [0, 1)."""
        drawn = [generator.random(samples, np.float32) for generator in self._generators]
        return torch.from_numpy(np.stack(drawn))
