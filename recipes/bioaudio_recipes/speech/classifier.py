"""A trained classifier of speech in a folder, known by the hash of its weights.

Scores of different classifiers cannot be compared, not even of the same network trained again elsewhere: the
hash goes into every result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.torch
import torch
from bioaudio_data.atomic_folder import atomic_folder
from bioaudio_data.store_folder import sha256_of
from numpy.typing import NDArray
from torch import Tensor

from bioaudio_recipes.run_folder import write_json
from bioaudio_recipes.speech.log_mel import LogMelConfig, fitted, log_mel
from bioaudio_recipes.speech.network import SpeechNetwork

DESCRIPTION, WEIGHTS = "classifier.json", "classifier.safetensors"
KIND = "speech-classifier"
BATCH = 256
"""Clips that go through the network at once."""

Waves = Iterable[NDArray[np.float32]]
"""Clips of any lengths, at the classifier's rate."""


class Heard(NamedTuple):
    """What the classifier makes of some clips."""

    features: NDArray[np.float64]
    """(clips, width) of the penultimate layer."""
    log_probabilities: NDArray[np.float64]
    """(clips, classes)"""

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each clip, (clips,)."""
        return self.log_probabilities.argmax(1)


@dataclass(frozen=True)
class SpeechClassifier:
    """A network in evaluation mode, and what it was made for."""

    network: SpeechNetwork
    mel: LogMelConfig
    classes: tuple[str, ...]
    about: Mapping[str, Any]
    """What else classifier.json says: the store, the training, the accuracy by split."""
    sha256: str
    """Of the file of weights."""

    @torch.inference_mode()
    def hear(self, waves: Waves) -> Heard:
        """Features and log-probabilities of clips, in their order."""
        device = self.network.mean.device
        features, logits = [], []
        for energies in energies_of(waves, self.mel):
            found = self.network(energies.to(device))
            features.append(found[0].cpu())
            logits.append(found[1].cpu())
        log_probabilities = torch.cat(logits).double().log_softmax(1)
        return Heard(torch.cat(features).double().numpy(), log_probabilities.numpy())


def energies_of(waves: Waves, mel: LogMelConfig) -> Iterator[Tensor]:
    """Log-mel energies of clips, (batch, bands, frames) at a time."""
    clips = iter(waves)
    while batch := list(islice(clips, BATCH)):
        yield log_mel(torch.stack([fitted(torch.from_numpy(wave), mel.samples) for wave in batch]), mel)


def save_classifier(
    folder: Path,
    network: SpeechNetwork,
    mel: LogMelConfig,
    classes: tuple[str, ...],
    about: Mapping[str, Any],
) -> SpeechClassifier:
    """Write a classifier's folder, whole or not at all.

    Raises:
        FileExistsError: if there is something at `folder`.
    """
    weights = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    with atomic_folder(folder) as partial:
        safetensors.torch.save_file(weights, partial / WEIGHTS)
        sha256 = sha256_of(partial / WEIGHTS)
        content = {"kind": KIND, "sha256": sha256, "mel": asdict(mel), "classes": list(classes), **about}
        write_json(partial / DESCRIPTION, content)
    return SpeechClassifier(network, mel, classes, about, sha256)


def load_classifier(folder: Path, device: torch.device | str) -> SpeechClassifier:
    """Read what `save_classifier` wrote.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the folder holds no such classifier, or its weights are not those it was saved with.
    """
    path, weights = folder / DESCRIPTION, folder / WEIGHTS
    for file in (path, weights):
        if not file.is_file():
            raise FileNotFoundError(f"{folder} holds no classifier of speech: {file.name} is missing")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("kind") != KIND:
            raise ValueError("of another kind")
        sha256, classes = content.pop("sha256"), tuple(content.pop("classes"))
        mel = LogMelConfig(**content.pop("mel"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} describes no classifier of speech ({error})") from error
    if (found := sha256_of(weights)) != sha256:
        raise ValueError(
            f"{weights} has sha256 {found[:12]}, but {DESCRIPTION} says {sha256[:12]}: the weights were "
            "changed; remove the folder to train a new classifier"
        )
    network = SpeechNetwork(len(classes), mel.bands)
    try:
        network.load_state_dict(safetensors.torch.load_file(weights))
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise ValueError(f"{weights} is damaged: {str(error).splitlines()[0]}") from error
    return SpeechClassifier(network.to(device).eval(), mel, classes, content, sha256)
