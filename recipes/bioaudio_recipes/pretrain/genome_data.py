"""What a run trains on: genome stores, how they are divided, and how their windows are cut."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bioaudio_data.augment import Augmentation
from bioaudio_data.bed import read_bed
from bioaudio_data.genome import GenomeStore
from bioaudio_data.interval import Interval
from bioaudio_data.leakage import check_leakage
from bioaudio_data.splits import Splits, split_by_column, split_by_contig, split_by_fraction
from bioaudio_data.windows import WindowRule, Windows

from bioaudio_recipes.pretrain.packed_windows import PackedWindows

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GenomeData:
    """Genomes, their division into train, valid and test, and the windows that are trained on."""

    genomes: list[Path]
    """Genome stores, written by `bioaudio prepare-genome`."""
    split: Literal["fraction", "contig", "bed"] = "fraction"
    """By position in every contig, by whole contigs, or by the fourth column of a BED file."""
    train: tuple[float, float] = (0.0, 0.8)
    """Split `fraction`: where the training bases begin and end, as fractions of every contig."""
    valid: tuple[float, float] = (0.8, 0.9)
    """Split `fraction`: the same for validation."""
    test: tuple[float, float] = (0.9, 1.0)
    """Split `fraction`: the same for the final test, which pretraining never reads."""
    guard: int | None = None
    """Split `fraction`: bases left out at each border, 100,000 unless given (apes drift apart by 65 kb)."""
    valid_contigs: tuple[str, ...] = ()
    """Split `contig`: contigs for validation."""
    test_contigs: tuple[str, ...] = ()
    """Split `contig`: contigs for the final test; all others are trained on."""
    bed: Path | None = None
    """Split `bed`: intervals with a column of train, valid or test, as HyenaDNA's human-sequences.bed."""
    sort_bed: bool = False
    """Split `bed`: take intervals in any order, as published files often have them."""
    rule: WindowRule = "mamba"
    """How training windows are cut from segments; `bioaudio plan` shows what each rule makes of them."""
    reverse_complement: float = 0.5
    """Probability that a training window is read from the opposite strand."""
    max_shift: int = 0
    """Training windows move by up to this many bases either way."""
    soft_mask_weight: float = 1.0
    """Weight in the loss of repeats (soft-masked bases); 1 trains on them like on all others."""
    leakage: Literal["refuse", "warn"] = "refuse"
    """What to do where training windows reach the bases of another split, as those of rule `mamba` do where
    they are longer than a segment."""

    def __post_init__(self) -> None:
        if not self.genomes:
            raise ValueError(
                "--data.genomes is empty; give at least one store made by `bioaudio prepare-genome`"
            )
        if (self.split == "bed") != (self.bed is not None):
            raise ValueError(
                f"--data.bed goes with --data.split bed and only with it; the split is {self.split}"
            )
        if (self.split == "contig") != bool(self.valid_contigs):
            raise ValueError(
                f"--data.valid_contigs goes with --data.split contig and only with it, not {self.split}"
            )
        if not 0 <= self.soft_mask_weight <= 1:
            raise ValueError(f"--data.soft_mask_weight must lie in [0, 1], got {self.soft_mask_weight}")
        self.augmentation()

    def reading(self) -> dict[str, Any]:
        """The settings that change what is read from given segments."""
        names = ("rule", "reverse_complement", "max_shift", "soft_mask_weight")
        return {name: getattr(self, name) for name in names}

    def augmentation(self) -> Augmentation:
        """What is done to training windows."""
        return Augmentation(reverse_complement=self.reverse_complement, max_shift=self.max_shift)


class GenomeCorpus:
    """The opened stores of a `GenomeData`, each with its splits.

    Raises:
        FileNotFoundError: for a store or BED file that is not there.
        ValueError: for a damaged store, or a split that does not fit the genomes.
    """

    def __init__(self, data: GenomeData) -> None:
        self.data = data
        self.stores = [GenomeStore.open(path) for path in data.genomes]
        self.splits = [_split(data, store) for store in self.stores]

    def windows(self, split: str, length: int, rule: WindowRule) -> PackedWindows:
        """All windows of a split over all genomes, genome after genome."""
        parts = [
            Windows(_segments(splits, split, store), length, rule, store.contigs)
            for store, splits in zip(self.stores, self.splits, strict=True)
        ]
        return PackedWindows(self.stores, parts)

    def check_leakage(self, lengths: Sequence[int]) -> None:
        """Look for bases of another split that training windows reach, at any length and shift.

        Raises:
            ValueError: naming the first windows that do, unless the settings say to warn.
        """
        for store, splits in zip(self.stores, self.splits, strict=True):
            try:
                check_leakage(
                    splits,
                    lengths,
                    self.data.rule,
                    store.contigs,
                    max_shift=self.data.max_shift,
                    cut=["train"],
                )
            except ValueError as error:
                if self.data.leakage == "refuse":
                    raise ValueError(f"{error}; or --data.leakage warn to train all the same") from error
                logger.warning("%s", error)

    def identity(self) -> dict[str, Any]:
        """What is read, wherever it lies: the hash of every store and of the segments of its splits."""
        return {
            f"genome {number}": {"bases": store.index.sha256, "segments": _digest(splits)}
            for number, (store, splits) in enumerate(zip(self.stores, self.splits, strict=True))
        }


def _split(data: GenomeData, store: GenomeStore) -> Splits:
    if data.split == "fraction":
        return split_by_fraction(
            store.contigs, guard=data.guard, train=data.train, valid=data.valid, test=data.test
        )
    if data.split == "contig":
        held_out = {"valid": data.valid_contigs, "test": data.test_contigs}
        return split_by_contig(
            store.contigs, rest="train", **{name: contigs for name, contigs in held_out.items() if contigs}
        )
    assert data.bed is not None
    return split_by_column(read_bed(data.bed, store.contigs, sort=data.sort_bed))


def _digest(splits: Splits) -> str:
    lines = [f"{name} {segment}" for name, segments in splits.items() for segment in segments]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _segments(splits: Splits, split: str, store: GenomeStore) -> list[Interval]:
    if not splits.get(split):
        raise ValueError(
            f"genome store {store.path} has no segment in split {split!r}; it has {', '.join(splits)}"
        )
    return splits[split]
