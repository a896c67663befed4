"""The counting baselines of an evaluation: counted on training bases, tuned on validation, scored on test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from bioaudio_recipes.counting.contexts import context_keys
from bioaudio_recipes.counting.smoothing import BucketWeights, PseudoCount
from bioaudio_recipes.counting.table import ContextTable

Smoothing = Literal["fixed", "back-off", "interpolated"]

_FITTED: dict[Smoothing, type[PseudoCount] | type[BucketWeights]] = {
    "fixed": PseudoCount,
    "back-off": PseudoCount,
    "interpolated": BucketWeights,
}

QUERY_CHUNK = 2**22
"""Bases scored at once: bounds the memory of scoring at about 40 bytes a base of the chunk."""


class Baseline(NamedTuple):
    """A counting model: contexts of up to `order` bases, and what it does where they are rare."""

    order: int
    smoothing: Smoothing = "fixed"

    @property
    def name(self) -> str:
        """As tables and figures show it, such as `order-16 back-off`."""
        return f"order-{self.order}" + ("" if self.smoothing == "fixed" else f" {self.smoothing}")


DEFAULT_BASELINES = (
    Baseline(8),
    Baseline(12, "back-off"),
    Baseline(16, "back-off"),
    Baseline(16, "interpolated"),
)


@dataclass(frozen=True)
class BaselineScore:
    """How well one counting model predicts the test bases."""

    baseline: Baseline
    bits_per_base: float
    """Mean of -log2 of the probability of each scored base."""
    bases: int
    """Scored bases."""

    @property
    def perplexity(self) -> float:
        """2 to the bits per base: 4 is a blind guess among four bases."""
        return 2.0**self.bits_per_base


class CountingBaselines:
    """Counting models of several orders and smoothings that share one table of counts.

    Memory: 16 bytes a training base and 17 a validation base, all kept; scoring takes chunks.
    """

    def __init__(
        self,
        train: Sequence[np.ndarray],
        valid: Sequence[np.ndarray],
        baselines: Sequence[Baseline] = DEFAULT_BASELINES,
        progress: bool = False,
    ) -> None:
        """Count the training bases, both strands, and fit the smoothing on the validation bases.

        Args:
            train: symbols (see `symbols_of`), one array a piece of genome.
            valid: the same of the validation split.
            baselines: the models wanted.
            progress: whether to show a bar of tuned models on stderr.

        Raises:
            ValueError: if a split has no base, or an order is out of range.
        """
        self.baselines = tuple(baselines)
        longest = max(baseline.order for baseline in self.baselines)
        self._table = ContextTable(train, longest)
        queries = _sorted_keys([context_keys(piece, longest) for piece in valid])
        if not len(queries):
            raise ValueError(
                "counting baselines are tuned on the validation split, which has no A, C, G or T"
            )
        self._fits: dict[Baseline, PseudoCount | BucketWeights] = {}
        for _ in tqdm(
            self._probabilities(queries, fitting=True),
            desc="tuning counting models",
            total=len(self.baselines),
            disable=_quiet(progress),
        ):
            pass

    @property
    def training_bases(self) -> int:
        """Counted bases, each on both strands."""
        return len(self._table) // 2

    def score(
        self, test: Iterable[tuple[np.ndarray, np.ndarray | None]], progress: bool = False
    ) -> list[BaselineScore]:
        """Score test bases, each from the bases before it in its piece.

        Args:
            test: pieces of genome as symbols, each with the bases to score (bool, or None for all).
            progress: whether to show a bar of scored bases on stderr.

        Returns:
            One score a baseline, in their order.

        Raises:
            ValueError: if there is no base to score.
        """
        bits = dict.fromkeys(self.baselines, 0.0)
        bases = 0
        with tqdm(
            desc="scoring counting models", unit=" bases", unit_scale=True, disable=_quiet(progress)
        ) as bar:
            for queries in _chunks(test, self._table.order):
                for baseline, probability in self._probabilities(queries):
                    bits[baseline] -= float(np.log2(probability).sum())
                bases += len(queries)
                bar.update(len(queries))
        if not bases:
            raise ValueError("the test split has no A, C, G or T to score")
        return [BaselineScore(baseline, bits[baseline] / bases, bases) for baseline in self.baselines]

    def _probabilities(
        self, queries: np.ndarray, fitting: bool = False
    ) -> Iterator[tuple[Baseline, np.ndarray]]:
        """The probability of each queried base by each baseline, order by order; fits first where asked."""
        blind = np.full(len(queries), 0.25)
        shorter = dict.fromkeys(_FITTED, blind)
        for order in range(self._table.order + 1):
            steps = [step for smoothing in _FITTED if self._needs(step := Baseline(order, smoothing))]
            if not steps:
                continue
            evidence = self._table.evidence(queries, order)
            for step in steps:
                before = blind if step.smoothing == "fixed" else shorter[step.smoothing]
                if fitting:
                    self._fits[step] = _FITTED[step.smoothing].fit(evidence, before)
                shorter[step.smoothing] = self._fits[step].probability(evidence, before)
                if step in self.baselines:
                    yield step, shorter[step.smoothing]

    def _needs(self, step: Baseline) -> bool:
        """A fixed order stands alone; the others are refined from order 0 up."""
        if step.smoothing == "fixed":
            return step in self.baselines
        return any(b.smoothing == step.smoothing and b.order >= step.order for b in self.baselines)


def _chunks(test: Iterable[tuple[np.ndarray, np.ndarray | None]], order: int) -> Iterator[np.ndarray]:
    """Sorted keys of the scored bases, `QUERY_CHUNK` at a time."""
    waiting: list[np.ndarray] = []
    for symbols, scored in test:
        waiting.append(context_keys(symbols, order, scored))
        if sum(map(len, waiting)) >= QUERY_CHUNK:
            keys = np.concatenate(waiting)
            whole = len(keys) // QUERY_CHUNK * QUERY_CHUNK
            for start in range(0, whole, QUERY_CHUNK):
                yield _sorted_keys([keys[start : start + QUERY_CHUNK]])
            waiting = [keys[whole:]]
    if any(map(len, waiting)):
        yield _sorted_keys(waiting)


def _quiet(progress: bool) -> bool | None:
    """`tqdm`'s `disable`: with progress wanted, None, which shows the bar on a terminal only."""
    return None if progress else True


def _sorted_keys(parts: Sequence[np.ndarray]) -> np.ndarray:
    keys = np.concatenate(parts) if parts else np.empty(0, np.uint64)
    keys.sort()
    return keys
