"""What a confusion matrix says: accuracy with its interval, recall of each class, chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Z_95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution: two-sided 95 %."""


@dataclass(frozen=True)
class Scores:
    """Result of a classifier on one set of examples."""

    classes: tuple[str, ...]
    confusion: np.ndarray
    """Counts, int64 (class, class): row = true class, column = predicted class."""
    loss: float
    """Mean cross-entropy in nats."""
    independent: int
    """Examples that share no base with one another; at most the number of examples."""

    @property
    def examples(self) -> int:
        """Number of examples."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Part of the examples that were given their own class."""
        return float(self.confusion.trace() / self.examples)

    @property
    def recall(self) -> dict[str, float | None]:
        """Part of each class's examples that were given that class; None for a class without examples."""
        per_class = zip(self.classes, self.confusion.diagonal(), self.confusion.sum(axis=1), strict=True)
        return {name: float(right / total) if total else None for name, right, total in per_class}

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy, as far as the test examples stand for all others like them."""
        return wilson_interval(self.accuracy, self.independent)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for classification.json."""
        return {
            "accuracy": self.accuracy,
            "accuracy_95": list(self.interval),
            "loss": self.loss,
            "recall": self.recall,
            "confusion": self.confusion.tolist(),
            "windows": self.examples,
            "independent_windows": self.independent,
        }


def confusion_matrix(labels: Sequence[int], predictions: Sequence[int], n_classes: int) -> np.ndarray:
    """Counts, int64 (n_classes, n_classes): row = label, column = prediction."""
    pairs = np.asarray(labels, np.int64) * n_classes + np.asarray(predictions, np.int64)
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def wilson_interval(proportion: float, trials: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a proportion seen in `trials` independent trials (E. B. Wilson, 1927).

    Unlike the normal approximation it stays inside [0, 1] and is honest at proportions of 0 and 1.

    Raises:
        ValueError: if there is no trial.
    """
    if trials < 1:
        raise ValueError(f"an interval needs at least one trial, got {trials}")
    scale = 1 + z * z / trials
    centre = (proportion + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(proportion * (1 - proportion) / trials + z * z / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)
