"""The classifier that belongs to a store: found in its folder, or trained on the store's train split."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from bioaudio_data.audio import WaveformStore
from numpy.typing import NDArray

from bioaudio_recipes.speech.classifier import (
    DESCRIPTION,
    SpeechClassifier,
    energies_of,
    load_classifier,
    save_classifier,
)
from bioaudio_recipes.speech.clips import real_clips
from bioaudio_recipes.speech.log_mel import LogMelConfig
from bioaudio_recipes.speech.training import ClassifierTraining, train_network


def classifier_of(
    store: WaveformStore,
    folder: Path,
    training: ClassifierTraining | None,
    device: torch.device,
    *,
    progress: bool = True,
) -> SpeechClassifier:
    """The classifier in `folder`; trained and saved there if the folder does not exist.

    Args:
        store: its train split is learned.
        folder: of the classifier.
        training: how it is trained, or was; None takes the defaults, or what is there.
        device: where it runs.
        progress: show a bar on stderr, if that is a terminal.

    Raises:
        ValueError: if the store has no labels, or the classifier is of other classes, another rate or another
            training.
    """
    classes = check_labels(store)
    if folder.exists():
        found = load_classifier(folder, device)
        _check_fits(found, store, training, folder)
        return found
    training = training or ClassifierTraining()
    mel = LogMelConfig(sample_rate=store.sample_rate, seconds=training.seconds)
    energies = torch.cat(list(energies_of(real_clips(store, "train"), mel)))
    labels = torch.from_numpy(labels_of(store, "train"))
    network = train_network(energies, labels, len(classes), training, device, progress=progress)
    trained = SpeechClassifier(network, mel, classes, {}, "")
    about = {
        "store": {"name": store.path.name, "sha256": store.index.sha256},
        "quantiser": store.index.quantiser.to_dict(),
        "training": asdict(training),
        "accuracy": {
            split: accuracy(trained, store, split)
            for split in ("train", "valid", "test")
            if len(store.of_split(split))
        },
    }
    return save_classifier(folder, network, mel, classes, about)


def accuracy(classifier: SpeechClassifier, store: WaveformStore, split: str) -> float:
    """Share of a split's clips that are given their own label."""
    heard = classifier.hear(real_clips(store, split))
    return float((heard.predicted == labels_of(store, split)).mean())


def labels_of(store: WaveformStore, split: str) -> NDArray[np.int64]:
    """Class numbers of the clips of a split, (clips,)."""
    return store.labels[store.of_split(split)]


def check_labels(store: WaveformStore) -> tuple[str, ...]:
    """The labels of a store that a classifier can be trained on.

    Raises:
        ValueError: if a clip has no label, or there are not two labels in the train split.
    """
    if unlabelled := [clip.name for clip in store.clips if clip.label is None]:
        raise ValueError(
            f"{store.path} has clips without a label, as {unlabelled[0]}: give labels when it is made "
            "(`bioaudio prepare-audio --tags...`)"
        )
    if not len(train := labels_of(store, "train")) or len(np.unique(train)) < 2:
        raise ValueError(f"{store.path} has fewer than two labels in its train split; see --split.by")
    return store.index.labels


def _check_fits(
    found: SpeechClassifier, store: WaveformStore, training: ClassifierTraining | None, folder: Path
) -> None:
    expected = {
        "classes": (found.classes, store.index.labels),
        "sample rate": (found.mel.sample_rate, store.sample_rate),
        "store": (found.about["store"]["sha256"], store.index.sha256),
        "quantiser": (found.about["quantiser"], store.index.quantiser.to_dict()),
    }
    if training is not None:
        expected["training"] = found.about["training"], asdict(training)
    for name, (ours, wanted) in expected.items():
        if ours != wanted:
            raise ValueError(
                f"the classifier in {folder} has another {name}: {ours} against {wanted}; "
                f"give another --classifier folder (its {DESCRIPTION} says what it is of)"
            )
