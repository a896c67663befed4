"""From counts to probabilities: two ways to lean on shorter contexts where a long one was seen too rarely.

Both refine the probability p_{k-1} that contexts of k - 1 bases give, order by order from p_{-1} = 1/4, and
learn their few parameters on the validation split, order after order. With n_k the times that a context of k
bases was met and c_k the times that this base followed:

- back-off:     p_k = (c_k + alpha_k p_{k-1}) / (n_k + alpha_k), one pseudo-count an order (a Dirichlet prior;
                MacKay and Peto 1995). A context never met backs off to the next shorter one.
- interpolated: p_k = (1 - w) c_k / n_k + w p_{k-1}, where the weight w depends on k, on n_k and on how many
                different bases followed the context (Jelinek and Mercer 1980).
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from scipy.optimize import minimize_scalar

from bioaudio_recipes.counting.table import Evidence

LOG2_ALPHA_RANGE = (-4.0, 20.0)
BUCKETS = 4 * 64
"""Buckets of interpolation: half octaves of how often the context was met x distinct bases that followed."""
FEWEST_IN_BUCKET = 200
"""A bucket with fewer validation bases is not fitted: it keeps the shorter context's probability."""
BISECTIONS = 20


class PseudoCount(NamedTuple):
    """Back-off with one pseudo-count."""

    alpha: float

    @classmethod
    def fit(cls, evidence: Evidence, shorter: np.ndarray) -> PseudoCount:
        """The pseudo-count, between 2^-4 and 2^20, with the least cross-entropy on the validation bases.

        Args:
            evidence: of the validation bases.
            shorter: (queries,) their probabilities by the next shorter contexts.
        """
        result = minimize_scalar(
            lambda log2_alpha: _nats(evidence.seen, evidence.total, shorter, 2.0**log2_alpha),
            bounds=LOG2_ALPHA_RANGE,
            method="bounded",
            options={"xatol": 0.1},
        )
        return cls(float(2.0 ** result["x"]))

    def probability(self, evidence: Evidence, shorter: np.ndarray) -> np.ndarray:
        """Probabilities (queries,) of queried bases, refined from those by the next shorter contexts."""
        return (evidence.seen + self.alpha * shorter) / (evidence.total + self.alpha)


class BucketWeights(NamedTuple):
    """Interpolation with a weight of the shorter context in each bucket."""

    weights: np.ndarray

    @classmethod
    def fit(cls, evidence: Evidence, shorter: np.ndarray) -> BucketWeights:
        """The weights with the least cross-entropy on the validation bases.

        The log-likelihood is concave in each weight, so its slope is bisected, all buckets at once. No weight
        falls below one in the bucket's bases: what never surprised in validation may still do so in the test.

        Args:
            evidence: of the validation bases.
            shorter: (queries,) their probabilities by the next shorter contexts.
        """
        buckets = _buckets(evidence)
        population = np.bincount(buckets, minlength=BUCKETS)
        low, high = np.zeros(BUCKETS), np.ones(BUCKETS)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            rising = _slopes(evidence.seen, evidence.total, shorter, buckets, middle) > 0
            low, high = np.where(rising, middle, low), np.where(rising, high, middle)
        return cls(np.where(population >= FEWEST_IN_BUCKET, np.maximum(high, 1.0 / (population + 1)), 1.0))

    def probability(self, evidence: Evidence, shorter: np.ndarray) -> np.ndarray:
        """Probabilities (queries,) of queried bases, refined from those by the next shorter contexts."""
        weight = np.where(evidence.total > 0, self.weights[_buckets(evidence)], 1.0)
        return (1.0 - weight) * evidence.seen / np.maximum(evidence.total, 1) + weight * shorter


def _buckets(evidence: Evidence) -> np.ndarray:
    half_octaves = np.floor(2.0 * np.log2(np.maximum(evidence.total, 1))).astype(np.int64)
    return 4 * half_octaves + np.maximum(evidence.distinct, 1) - 1


@numba.njit(cache=True)
def _nats(seen: np.ndarray, total: np.ndarray, shorter: np.ndarray, alpha: float) -> float:
    nats = 0.0
    for i in range(len(seen)):
        nats -= np.log((seen[i] + alpha * shorter[i]) / (total[i] + alpha))
    return nats


@numba.njit(cache=True)
def _slopes(
    seen: np.ndarray, total: np.ndarray, shorter: np.ndarray, buckets: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    slopes = np.zeros(len(weights))
    for i in range(len(seen)):
        if total[i] > 0:
            weight = weights[buckets[i]]
            frequency = seen[i] / total[i]
            slopes[buckets[i]] += (shorter[i] - frequency) / (
                (1.0 - weight) * frequency + weight * shorter[i]
            )
    return slopes
