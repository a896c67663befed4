"""What a classifier learns and is judged by, whatever the examples come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Example = tuple[np.ndarray, int]
"""Token ids or codes, (length,), and the place of their class in the task's `classes`."""
Draw = Callable[[int, int], Example]
"""(epoch, index) to a training example: a pure function."""


@dataclass(frozen=True)
class HeldOut:
    """Examples that a classifier is judged by: the same ones in every pass."""

    count: int
    """Number of examples."""
    independent: int
    """How many examples can share no base with one another: what the accuracy's interval counts."""
    read: Callable[[int], Example]
    """Example 0 .. count - 1."""


class Task(Protocol):
    """Classes, an endless supply of training examples, and held-out ones."""

    @property
    def unit(self) -> str:
        """What examples are made of, as results say it: bases, samples."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their labels."""
        ...

    @property
    def examples_per_epoch(self) -> int | None:
        """Training examples in one pass, or None where passes have no meaning."""
        ...

    def identity(self) -> dict[str, Any]:
        """What tells these data from others, wherever they lie: plain values."""
        ...

    def training(self, length: int, seed: int) -> Draw:
        """Training examples of at most `length` bases.

        Raises:
            ValueError: if a class has none of that length.
        """
        ...

    def held_out(self, split: str, length: int, per_class: int) -> HeldOut:
        """Examples of `valid` or `test`, of at most `length` bases; `per_class` of each if there is a choice.

        Raises:
            ValueError: if a class has none of that length.
        """
        ...
