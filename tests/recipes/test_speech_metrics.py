"""The metrics of speech have the values that their definitions give by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from bioaudio_recipes.speech.classifier import Heard
from bioaudio_recipes.speech.metrics import (
    am_score,
    fid,
    frechet_distance,
    inception_score,
    modified_inception_score,
    published_inception_score,
)
from bioaudio_recipes.speech.scoring import LEAST, row
from scipy.linalg import sqrtm

CLASSES = 10
TINY = 1e-30
"""Stands for a probability of 0 where a metric of exact zeros would be infinite."""


def one_hot(counts: list[int], other: float = TINY) -> np.ndarray:
    """Log-probabilities of clips that are of one class each, `counts` of each class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    probabilities = np.full((len(labels), len(counts)), other)
    probabilities[np.arange(len(labels)), labels] = 1 - other * (len(counts) - 1)
    return np.log(probabilities)


def soft(clips: int, classes: int = CLASSES, seed: int = 0) -> np.ndarray:
    """Log-probabilities drawn at random."""
    return np.log(np.random.default_rng(seed).dirichlet(np.ones(classes), clips))


UNIFORM = np.full((50, CLASSES), -math.log(CLASSES))
EVEN = one_hot([20] * CLASSES)
SKEWED = one_hot([152] * 5 + [48] * 5)


def test_clips_that_say_nothing_score_lowest() -> None:
    assert inception_score(UNIFORM) == pytest.approx(1, abs=1e-12)
    assert published_inception_score(UNIFORM) == pytest.approx(1, abs=1e-12)
    assert modified_inception_score(UNIFORM) == pytest.approx(1, abs=1e-12)
    assert am_score(UNIFORM, EVEN) == pytest.approx(math.log(CLASSES), abs=1e-12)


def test_sure_clips_of_even_classes_score_the_number_of_classes() -> None:
    assert inception_score(EVEN) == pytest.approx(CLASSES, rel=1e-12)
    assert published_inception_score(EVEN) == pytest.approx(CLASSES, rel=1e-12)
    assert am_score(EVEN, EVEN) == pytest.approx(0, abs=1e-12)


def test_published_score_exceeds_the_number_of_classes_where_they_are_uneven() -> None:
    entropy = -5 * (0.152 * math.log(0.152) + 0.048 * math.log(0.048))
    assert inception_score(SKEWED) == pytest.approx(math.exp(entropy), rel=1e-12)
    assert inception_score(SKEWED) < CLASSES
    expected = math.exp(-(math.log(0.152) + math.log(0.048)) / 2)
    assert published_inception_score(SKEWED) == pytest.approx(expected, rel=1e-12)
    assert published_inception_score(SKEWED) == pytest.approx(11.7, abs=0.05)


def test_published_score_is_the_entropy_over_the_wrong_axis() -> None:
    from scipy.stats import entropy

    p = np.exp(soft(40))
    marginal = np.broadcast_to(p.mean(0), p.shape)
    assert published_inception_score(np.log(p)) == pytest.approx(np.exp(entropy(p, marginal).mean()))
    assert inception_score(np.log(p)) == pytest.approx(np.exp(entropy(p, marginal, axis=1).mean()))


def test_modified_score_of_two_opposite_clips_by_hand() -> None:
    logs = np.log([[0.9, 0.1], [0.1, 0.9]])
    divergence = 0.9 * math.log(9) - 0.1 * math.log(9)
    assert modified_inception_score(logs) == pytest.approx(math.exp(divergence), rel=1e-12)


def test_modified_score_is_what_random_pairs_scatter_around() -> None:
    logs, rng = soft(30), np.random.default_rng(1)
    i, j = rng.integers(30, size=(2, 200_000))
    pairs = (np.exp(logs[i]) * (logs[i] - logs[j])).sum(1)[i != j]
    error = pairs.std() / math.sqrt(len(pairs))
    assert math.log(modified_inception_score(logs)) == pytest.approx(pairs.mean(), abs=4 * error)


def test_am_score_adds_the_divergence_from_the_training_classes() -> None:
    one_class = one_hot([40, 0], other=0.01)
    even = one_hot([20, 20], other=0.01)
    entropy = -(0.99 * math.log(0.99) + 0.01 * math.log(0.01))
    divergence = 0.5 * math.log(0.5 / 0.99) + 0.5 * math.log(0.5 / 0.01)
    assert am_score(one_class, even) == pytest.approx(divergence + entropy, rel=1e-12)


@pytest.mark.parametrize("metric", [inception_score, published_inception_score, modified_inception_score])
def test_order_of_clips_and_names_of_classes_change_nothing(metric) -> None:
    logs, rng = soft(25), np.random.default_rng(2)
    other = logs[rng.permutation(25)][:, rng.permutation(CLASSES)]
    assert metric(other) == pytest.approx(metric(logs), rel=1e-12)


def test_distance_of_known_gaussians() -> None:
    mean, spread = np.array([1.0, 2.0]), np.diag([4.0, 9.0])
    assert frechet_distance(mean, spread, mean, spread) == pytest.approx(0, abs=1e-12)
    moved = frechet_distance(mean, spread, mean + np.array([3.0, 4.0]), np.diag([1.0, 16.0]))
    assert moved == pytest.approx(25 + (2 - 1) ** 2 + (3 - 4) ** 2, rel=1e-12)
    collapsed = frechet_distance(mean, spread, mean, np.zeros((2, 2)))
    assert collapsed == pytest.approx(13, rel=1e-12)


def test_distance_of_correlated_gaussians_is_that_of_the_matrix_root() -> None:
    rng = np.random.default_rng(3)
    a, b = (np.cov(rng.standard_normal((8, 50))) for _ in range(2))
    root = np.real(sqrtm(a @ b))
    expected = np.trace(a + b - 2 * root)
    assert frechet_distance(np.zeros(8), a, np.zeros(8), b) == pytest.approx(expected, rel=1e-9)


def test_fid_ignores_rotation_and_counts_a_shift() -> None:
    rng = np.random.default_rng(4)
    features = rng.standard_normal((60, 5))
    turn, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    other = rng.standard_normal((40, 5)) * 2
    assert fid(features @ turn, other @ turn) == pytest.approx(fid(features, other), rel=1e-9)
    assert fid(features + 0.5, features) == pytest.approx(5 * 0.25, rel=1e-9)
    with pytest.raises(ValueError, match="FID needs 2 clips or more, got 1 and 40"):
        fid(features[:1], other)


def test_intervals_shrink_with_the_number_of_clips_and_repeat_with_the_seed() -> None:
    rng = np.random.default_rng(5)
    many = Heard(rng.standard_normal((400, 4)), soft(400))
    few = Heard(many.features[:40], many.log_probabilities[:40])
    labels = many.predicted.copy()
    labels[:100] = (labels[:100] + 1) % CLASSES
    wide = row("few", few, many, None, resamples=30, seed=0)
    narrow = row("many", many, many, labels, resamples=30, seed=0)
    assert row("many", many, many, labels, resamples=30, seed=0) == narrow
    for metric, least in LEAST.items():
        assert least <= narrow[metric]["low"] <= narrow[metric]["value"] <= narrow[metric]["high"]
        if metric != "fid":  # of a set from itself it is 0, whose interval is cut
            widths = [r[metric]["high"] - r[metric]["low"] for r in (narrow, wide)]
            assert widths[0] < widths[1], metric
    assert narrow["label_accuracy"]["value"] == 0.75
    assert "label_accuracy" not in wide
