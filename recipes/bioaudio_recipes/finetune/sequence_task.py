"""Telling labelled sequences apart: the user's own task, from a CSV."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
from bioaudio_data.augment import Augmentation
from bioaudio_data.vocabulary import DNA

from bioaudio_recipes.finetune.labelled_csv import LabelledSequences
from bioaudio_recipes.finetune.task import Draw, Example, HeldOut


@dataclass(frozen=True, kw_only=True)
class SequenceTask:
    """Training passes over the rows of the train split, in an order drawn anew for every pass."""

    data: LabelledSequences
    """Sequences, labels and splits."""
    reverse_complement: float = 0.0
    """Probability that a training sequence is read from the opposite strand."""
    unit: str = "bases"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their labels."""
        return self.data.classes

    @property
    def examples_per_epoch(self) -> int:
        """Rows of the train split."""
        return len(self.data.rows("train"))

    def identity(self) -> dict[str, Any]:
        """Hash of sequences, labels and splits."""
        parts = (self.data.tokens, self.data.offsets, self.data.labels, self.data.splits)
        content = b"".join(np.ascontiguousarray(part).tobytes() for part in parts)
        return {
            "sequences": hashlib.sha256(content).hexdigest(),
            "classes": list(self.classes),
            "reverse_complement": self.reverse_complement,
        }

    def training(self, length: int, seed: int) -> Draw:
        """Rows of the train split; where an epoch asks for more than there are, another pass follows."""
        self._check(length)
        return partial(self._draw, self.data.rows("train"), seed)

    def held_out(self, split: str, length: int, per_class: int) -> HeldOut:
        """Every row of the split, whatever `per_class`."""
        self._check(length)
        rows = self.data.rows(split)
        return HeldOut(len(rows), len(rows), lambda index: self._read(int(rows[index])))

    def _draw(self, rows: np.ndarray, seed: int, epoch: int, index: int) -> Example:
        again, place = divmod(index, len(rows))
        tokens, label = self._read(int(rows[permutation(len(rows), seed, epoch, again)[place]]))
        opposite, _ = Augmentation(reverse_complement=self.reverse_complement).draw(seed, epoch, index)
        return DNA.reverse_complement(tokens) if opposite else tokens, label

    def _read(self, row: int) -> Example:
        return self.data.sequence(row), int(self.data.labels[row])

    def _check(self, length: int) -> None:
        if self.data.longest > length:
            raise ValueError(
                f"--length {length} is shorter than the longest sequence, of {self.data.longest} bases; "
                f"raise it, or leave it out to take that length"
            )


@lru_cache(maxsize=2)
def permutation(size: int, seed: int, epoch: int, again: int) -> np.ndarray:
    """The order of pass `again` of an epoch over `size` rows, int64 (size,)."""
    return np.random.default_rng([seed, epoch, again]).permutation(size)
