"""Telling clips apart by their labels: digits, words, instruments."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from bioaudio_data.audio import AudioWindows

from bioaudio_recipes.finetune.sequence_task import permutation
from bioaudio_recipes.finetune.task import Draw, Example, HeldOut
from bioaudio_recipes.pretrain.waveform_data import WaveformCorpus


@dataclass(frozen=True, kw_only=True)
class WaveformTask:
    """Training passes over the windows of the train split, in an order drawn anew for every pass.

    A clip that is no longer than a window is one example, as long as the clip is; of a longer one, training
    windows begin anywhere, and held-out ones lie side by side.
    """

    corpus: WaveformCorpus
    """Clips, labels and splits, and how samples become codes."""
    length: int
    """Samples of a window."""
    unit: str = "samples"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their labels."""
        return self.corpus.store.index.labels

    @property
    def examples_per_epoch(self) -> int:
        """Windows of the train split."""
        return len(self._windows(self.length, "train"))

    def identity(self) -> dict[str, Any]:
        """Hash of the samples, and of clips with their labels and splits; the quantiser and the rate."""
        return {**self.corpus.identity(), "labels": list(self.classes)}

    def training(self, length: int, seed: int) -> Draw:
        """Windows of the train split; where an epoch asks for more than there are, another pass follows."""
        return partial(self._draw, self._windows(length, "train"), seed)

    def held_out(self, split: str, length: int, per_class: int) -> HeldOut:
        """Every window of the split, whatever `per_class`."""
        windows = self._windows(length, split)
        return HeldOut(len(windows), len(windows), partial(_read, windows, 0, 0))

    def _draw(self, windows: AudioWindows, seed: int, epoch: int, index: int) -> Example:
        again, place = divmod(index, len(windows))
        order = permutation(len(windows), seed, epoch, again)
        return _read(windows, seed, epoch + (again << 16), int(order[place]))

    def _windows(self, length: int, split: str) -> AudioWindows:
        placement = "random" if split == "train" else "tile"
        store, quantiser = self.corpus.store, self.corpus.quantiser
        return AudioWindows(store, length, split=split, placement=placement, quantiser=quantiser)


def _read(windows: AudioWindows, seed: int, epoch: int, index: int) -> Example:
    """The real samples of a window as codes, and the class of its clip."""
    (clip,), (start,), (size,) = (part.tolist() for part in windows.locate([index], seed=seed, epoch=epoch))
    codes = windows.encode(clip, start, start + size)
    return np.asarray(codes), int(windows.store.labels[clip])
