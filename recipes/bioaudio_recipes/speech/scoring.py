"""The metrics of a set of clips, each with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bioaudio_recipes.finetune.scores import Z_95, wilson_interval
from bioaudio_recipes.speech.classifier import Heard
from bioaudio_recipes.speech.metrics import (
    am_score,
    fid,
    inception_score,
    modified_inception_score,
    published_inception_score,
)

LEAST = {"fid": 0.0, "is": 1.0, "is_published": 1.0, "mis": 1.0, "am": 0.0}
"""Name in speech.json of each metric, and the least value that it can have."""


def scores(heard: Heard, train: Heard) -> dict[str, float]:
    """All metrics of a set of clips, beside the clips of the train split."""
    return {
        "fid": fid(heard.features, train.features),
        "is": inception_score(heard.log_probabilities),
        "is_published": published_inception_score(heard.log_probabilities),
        "mis": modified_inception_score(heard.log_probabilities),
        "am": am_score(heard.log_probabilities, train.log_probabilities),
    }


def row(
    name: str,
    heard: Heard,
    train: Heard,
    labels: NDArray[np.int64] | None,
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """One row of speech.json: the metrics with 95 % intervals, and the share of clips that have their label.

    An interval is the value +- 1.96 standard deviations over `resamples` sets of as many clips drawn with
    replacement. (Not their quantiles: of fewer different clips, FID is too high, and the others are off too.)
    The train split that clips are compared with is taken as it is.

    Args:
        name: of the row.
        heard: what the classifier makes of the clips.
        train: of the train split.
        labels: what the clips are meant to be, (clips,); None where that is unknown.
        resamples: sets that are drawn, 2 or more.
        seed: of the draws.
    """
    values, clips = scores(heard, train), len(heard.features)
    rng = np.random.default_rng(seed)
    drawn = [scores(_chosen(heard, rng.integers(clips, size=clips)), train) for _ in range(resamples)]
    result: dict[str, Any] = {"name": name, "clips": clips}
    for metric, least in LEAST.items():
        half = Z_95 * float(np.std([draw[metric] for draw in drawn], ddof=1))
        value = values[metric]
        result[metric] = {"value": value, "low": max(least, value - half), "high": value + half}
    if labels is not None:
        share = float((heard.predicted == labels).mean())
        low, high = wilson_interval(share, clips)
        result["label_accuracy"] = {"value": share, "low": low, "high": high}
    return result


def subset(heard: Heard, places: Sequence[int]) -> Heard:
    """What the classifier makes of some of the clips."""
    return _chosen(heard, np.asarray(places, np.int64))


def _chosen(heard: Heard, places: NDArray[np.int64]) -> Heard:
    return Heard(heard.features[places], heard.log_probabilities[places])
