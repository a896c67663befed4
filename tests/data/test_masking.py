"""N and padding never count in the loss; repeats count as much as asked."""

from __future__ import annotations

import numpy as np
import pytest
from bioaudio_data.masking import loss_weights, valid_targets
from bioaudio_data.vocabulary import DNA

TARGETS = np.concatenate([DNA.encode("ACGTN"), np.array([DNA.PAD, DNA.UNK, DNA.CLS], np.uint8)])


def test_only_bases_are_valid_targets() -> None:
    assert valid_targets(TARGETS).tolist() == [True] * 4 + [False] * 4


def test_repeats_weigh_what_they_are_given() -> None:
    soft_mask = np.array([True, False, True, False, True, True, False, False])
    weights = loss_weights(TARGETS, soft_mask, 0.25)
    assert weights.dtype == np.float32
    assert weights.tolist() == [0.25, 1, 0.25, 1, 0, 0, 0, 0]
    assert loss_weights(TARGETS, soft_mask).tolist() == [1] * 4 + [0] * 4


def test_a_window_of_n_weighs_nothing() -> None:
    assert loss_weights(DNA.encode("N" * 50)).sum() == 0


def test_batches_keep_their_shape() -> None:
    batch = np.stack([TARGETS, TARGETS])
    assert loss_weights(batch, np.zeros_like(batch, bool), 0).shape == batch.shape


def test_impossible_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1, got"):
        loss_weights(TARGETS, None, 1.5)
    with pytest.raises(ValueError, match=r"soft_mask has shape \(3,\)"):
        loss_weights(TARGETS, np.zeros(3, bool))
