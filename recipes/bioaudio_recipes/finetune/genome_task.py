"""Telling genomes apart: each class is a genome store, an example is a window of it (Mamba paper, E.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from bioaudio_data.augment import Augmentation
from bioaudio_data.genome import GenomeStore
from bioaudio_data.interval import Interval
from bioaudio_data.vocabulary import DNA

from bioaudio_recipes.finetune.task import Draw, Example, HeldOut
from bioaudio_recipes.finetune.windows import ContigWeight, WindowPool, draw_window, pools


@dataclass(frozen=True, kw_only=True)
class GenomeTask:
    """A training example: a class, uniformly; then a contig of its train split; then a window, uniformly."""

    stores: Mapping[str, GenomeStore]
    """Genome of each class."""
    segments: Mapping[str, Mapping[str, Sequence[Interval]]]
    """Segments of each class by split: `segments["train"]["human"]`."""
    contig_weight: ContigWeight = "uniform"
    """Whether contigs are equally likely, or in proportion to their windows."""
    reverse_complement: float = 0.0
    """Probability that a training window is read from the opposite strand."""
    examples_per_epoch: None = None
    """Windows are drawn; there is no pass over all of them."""
    unit: str = "bases"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their labels."""
        return tuple(self.stores)

    def identity(self) -> dict[str, Any]:
        """Hash of every genome, and the segments of each split."""
        return {
            "genomes": {name: store.index.sha256 for name, store in self.stores.items()},
            "segments": {
                split: {name: [str(segment) for segment in segments] for name, segments in by_class.items()}
                for split, by_class in self.segments.items()
            },
            "contig_weight": self.contig_weight,
            "reverse_complement": self.reverse_complement,
        }

    def training(self, length: int, seed: int) -> Draw:
        """Windows of `length` bases drawn from the train split; see `Task.training`."""
        by_class = list(pools(self.segments["train"], length, "train").values())
        return partial(self._draw, by_class, seed)

    def held_out(self, split: str, length: int, per_class: int) -> HeldOut:
        """As many windows of every class, evenly spaced over its segments of the split, first to last.

        Fewer than `per_class` where a class has fewer places for a window. Neighbours overlap where the
        segments have no room for so many; `independent` counts only as many as there is room for.
        """
        by_class = list(pools(self.segments[split], length, split).values())
        count = min(per_class, *map(len, by_class))
        windows = [(label, window) for label, pool in enumerate(by_class) for window in pool.spread(count)]
        independent = sum(min(count, pool.disjoint) for pool in by_class)
        return HeldOut(len(windows), independent, lambda index: self._read(*windows[index]))

    def _draw(self, by_class: Sequence[WindowPool], seed: int, epoch: int, index: int) -> Example:
        label, window = draw_window(by_class, self.contig_weight, seed=seed, epoch=epoch, index=index)
        tokens, label = self._read(label, window)
        opposite, _ = Augmentation(reverse_complement=self.reverse_complement).draw(seed, epoch, index)
        return DNA.reverse_complement(tokens) if opposite else tokens, label

    def _read(self, label: int, window: Interval) -> Example:
        store = self.stores[self.classes[label]]
        return store.tokens(window.contig, window.start, window.end), label
