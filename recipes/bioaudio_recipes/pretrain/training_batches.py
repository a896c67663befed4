"""The training batches of a run: every batch is a function of the seed and its key alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from bioaudio_data.augment import Augmentation
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from bioaudio_recipes.pretrain.batch_order import BatchKey
from bioaudio_recipes.pretrain.packed_windows import PackedWindows

EPOCHS_OF_A_STAGE = 2**32
"""Keeps the augmentation of two stages apart: epoch e of stage s is drawn as epoch s * 2^32 + e."""


class TrainingBatches(Dataset[Tensor]):
    """Packed windows by `BatchKey`, augmented; holds nothing that reading could change.

    Args:
        stages: windows of each stage, in the order of training.
        augmentation: of the windows.
        seed: of the run.
    """

    def __init__(self, stages: Sequence[PackedWindows], augmentation: Augmentation, seed: int) -> None:
        self.stages = tuple(stages)
        self.augmentation = augmentation
        self.seed = seed

    def __getitem__(self, key: BatchKey) -> UInt8[Tensor, "batch length"]:
        """One batch, each byte a token id with the soft-mask bit above it."""
        reverse = np.empty(len(key.indices), np.bool_)
        shifts = np.empty(len(key.indices), np.int64)
        for epoch in np.unique(key.epochs).tolist():
            chosen = key.epochs == epoch
            draw = self.augmentation.draw(
                self.seed, key.stage * EPOCHS_OF_A_STAGE + epoch, key.indices[chosen]
            )
            reverse[chosen], shifts[chosen] = draw
        return torch.from_numpy(self.stages[key.stage].read(key.indices, shifts, reverse))
