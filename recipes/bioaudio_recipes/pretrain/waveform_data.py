"""What a run over waveforms trains on: a store, how its samples become codes, and its windows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from bioaudio_data.audio import AudioBatch, AudioWindows, Quantiser, WaveformStore
from bioaudio_data.augment import counter_hash
from torch.utils.data import Dataset

from bioaudio_recipes.pretrain.batch_order import BatchKey
from bioaudio_recipes.pretrain.objective import NextSample, WaveformBatch
from bioaudio_recipes.pretrain.training_batches import EPOCHS_OF_A_STAGE
from bioaudio_recipes.pretrain.validation import check_validation

_LABELS = 0x6C6162656C
"""Part of the key of the random bits by which labels are dropped."""


@dataclass(frozen=True, kw_only=True)
class HeardStore:
    """A waveform store, and how a network hears it."""

    store: Path
    """Waveform store, written by `bioaudio prepare-audio`; its splits are train, valid and test."""
    quantiser: Quantiser | None = None
    """How samples become codes; as the store says if not given."""


@dataclass(frozen=True, kw_only=True)
class WaveformData(HeardStore):
    """What a pretraining makes of a store."""

    conditional: bool = False
    """Whether the network is told the label of each clip, and so can be asked for one."""
    label_dropout: float = 0.0
    """Share of training windows whose label is left out, which `bioaudio generate --guidance` builds on."""
    short: Literal["mask", "silence", "skip"] = "mask"
    """What fills a training window that no clip fills: nothing that counts (mask), or silence, which the
    network then learns to end a clip with. skip leaves such windows out."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_dropout < 1:
            raise ValueError(f"--data.label_dropout must lie in [0, 1), got {self.label_dropout}")


@dataclass(frozen=True, kw_only=True)
class WaveformValidation:
    """When and on what a network over waveforms is validated."""

    lengths: list[int] = field(default_factory=list)
    """Window lengths to validate at, longer than those of training if you like; empty for the schedule's."""
    max_samples: int = 2**20
    """Samples read at each length, in windows spread evenly over the split."""
    every: int | None = None
    """Also validate every so many steps; before the first step and after each stage it is always done."""

    def __post_init__(self) -> None:
        check_validation(self.lengths, "max_samples", self.max_samples, self.every)


class WaveformCorpus:
    """The opened store of a `WaveformData`.

    Raises:
        FileNotFoundError: if there is no store.
        ValueError: if it is damaged, has no clip to train on or to validate with, or labels are missing.
    """

    def __init__(self, data: WaveformData) -> None:
        self.data = data
        self.store = WaveformStore.open(data.store)
        self.quantiser = data.quantiser or self.store.index.quantiser
        if data.label_dropout and not data.conditional:
            raise ValueError("--data.label_dropout needs --data.conditional true")
        for split in ("train", "valid", "test"):
            clips = self.store.of_split(split)
            if not len(clips) and split != "test":
                raise ValueError(
                    f"waveform store {self.store.path} has no clip in split {split!r}; see "
                    "`bioaudio prepare-audio --split`"
                )
            unlabelled = clips[self.store.labels[clips] < 0]
            if data.conditional and len(unlabelled):
                name = self.store.clips[unlabelled[0]].name
                raise ValueError(
                    f"--data.conditional needs a label for every clip; {len(unlabelled):,} of split {split} "
                    f"in {self.store.path} have none, such as {name}; see `bioaudio prepare-audio --tags`"
                )

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes that the network is told of."""
        return self.store.index.labels if self.data.conditional else ()

    @cached_property
    def objective(self) -> NextSample:
        """What is predicted."""
        return NextSample(self.quantiser.zero, conditional=self.data.conditional)

    def training_windows(self, length: int) -> AudioWindows:
        """Windows that begin anywhere in the training clips."""
        short = "skip" if self.data.short == "skip" else "pad"
        return AudioWindows(
            self.store, length, split="train", placement="random", short=short, quantiser=self.quantiser
        )

    def held_out(self, length: int, split: str = "valid") -> AudioWindows:
        """Windows side by side: every sample once, and none but real ones."""
        return AudioWindows(self.store, length, split=split, quantiser=self.quantiser)

    def identity(self) -> dict[str, Any]:
        """What is read, wherever it lies, and how."""
        clips = [f"{clip.split} {clip.label} {clip.length}" for clip in self.store.clips]
        about = self.about()
        if not about["label_dropout"]:  # as runs did that did not know of it
            del about["label_dropout"]
        return {
            "samples": self.store.index.sha256,
            "clips": hashlib.sha256("\n".join(clips).encode()).hexdigest(),
            **about,
            "short": self.data.short,
        }

    def about(self) -> dict[str, Any]:
        """What codes and classes mean, for the checkpoint."""
        return {
            "quantiser": self.quantiser.to_dict(),
            "sample_rate": self.store.sample_rate,
            "labels": list(self.labels),
            "label_dropout": self.data.label_dropout,
        }


class WaveformBatches(Dataset[WaveformBatch]):
    """Windows by `BatchKey`; holds nothing that reading could change.

    Args:
        stages: windows of each stage, in the order of training.
        corpus: what they are windows of.
        seed: of the run.
    """

    def __init__(self, stages: list[AudioWindows], corpus: WaveformCorpus, seed: int) -> None:
        self.stages = tuple(stages)
        self.objective = corpus.objective
        self.counts_silence = corpus.data.short == "silence"
        self.label_dropout = corpus.data.label_dropout
        self.seed = seed

    def __getitem__(self, key: BatchKey) -> WaveformBatch:
        """One batch, its windows drawn by (seed, epoch, number)."""
        windows = self.stages[key.stage]
        parts: list[AudioBatch] = []
        for epoch in np.unique(key.epochs).tolist():  # in order, as the keys are
            chosen = key.indices[key.epochs == epoch]
            epoch_of_run = key.stage * EPOCHS_OF_A_STAGE + epoch
            part = windows.read(chosen, seed=self.seed, epoch=epoch_of_run)
            bits = counter_hash(self.seed ^ _LABELS, epoch_of_run, chosen)
            dropped = bits < self.label_dropout * 2.0**64
            parts.append(part._replace(labels=np.where(dropped, -1, part.labels)))
        batch = AudioBatch(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        if self.counts_silence:
            batch = batch._replace(mask=np.ones_like(batch.mask))
        return self.objective.batch(batch)
