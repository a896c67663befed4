"""A trained classifier in a folder: its backbone as any pretrained model, its head beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import safetensors
import safetensors.torch
import torch
from bioaudio_data.vocabulary import DNA

from bioaudio_mamba import CausalLM, LanguageModel, Mamba, Sashimi, SequenceClassifier, WaveformLM
from bioaudio_mamba.classifier import Pooling
from bioaudio_mamba.pretrained import load_pretrained, load_pretrained_waveform, save_pretrained
from bioaudio_mamba.pretrained.replacing import replacing
from bioaudio_recipes.pretrain.starting_waveform_model import Sound, sound_of

HEAD = "classifier.safetensors"


def save_classifier(
    model: SequenceClassifier, classes: Sequence[str], directory: Path, about: Mapping[str, Any]
) -> None:
    """Write config.json and model.safetensors (the backbone, as `load_pretrained` reads it) and the head.

    The language-model head is that of the embedding, or a fresh one of a network over waveforms; one that was
    trained apart from it is not kept.

    Args:
        model: the classifier.
        classes: their names.
        directory: created if missing.
        about: what tokens mean, under the keys that a pretraining keeps it by.
    """
    directory.mkdir(parents=True, exist_ok=True)
    head = {name: tensor.detach().cpu().contiguous() for name, tensor in model.head.state_dict().items()}
    with replacing(directory / HEAD) as path:
        safetensors.torch.save_file(head, path)
        described = {"classes": list(classes), "pooling": model.pooling}
        save_pretrained(_language_model(model.backbone), directory, {**about, "classifier": described})


def load_classifier(
    directory: Path, device: torch.device | str = "cpu"
) -> tuple[SequenceClassifier, tuple[str, ...]]:
    """Read what `save_classifier` wrote of DNA; returns the classifier and the names of its classes.

    Raises:
        FileNotFoundError: if the folder or a file is missing.
        ValueError: if the folder holds no classifier of DNA, or a file is damaged.
    """
    model, extra = load_pretrained(directory)
    classifier, classes = _with_head(model, extra, directory)
    if extra["vocabulary"]["fingerprint"] != DNA.fingerprint():
        raise ValueError(f"{directory} has the vocabulary {extra['vocabulary']['name']}, not {DNA.name}")
    return classifier.to(device), classes


def load_waveform_classifier(
    directory: Path, device: torch.device | str = "cpu"
) -> tuple[SequenceClassifier, tuple[str, ...], Sound]:
    """The same of waveforms; returns what its codes mean too."""
    model, extra = load_pretrained_waveform(directory)
    classifier, classes = _with_head(model, extra, directory)
    return classifier.to(device), classes, sound_of(directory, extra)


def _language_model(backbone: Mamba | Sashimi) -> LanguageModel:
    """The backbone under a head of the kind that is saved with it."""
    if isinstance(backbone, Sashimi):
        model = WaveformLM(backbone.config, torch.Generator().manual_seed(0))
        model.backbone = backbone
        return model
    with torch.device("meta"):  # everything in it is about to be replaced
        tied = CausalLM(replace(backbone.config, tie_embeddings=True))
    tied.backbone = backbone
    tied.tie_weights()
    return tied


def _with_head(
    model: LanguageModel, extra: Mapping[str, Any], directory: Path
) -> tuple[SequenceClassifier, tuple[str, ...]]:
    about: Any = extra.get("classifier")
    if not isinstance(about, dict) or about.get("pooling") not in get_args(Pooling):
        raise ValueError(f"{directory} holds no classifier; make one with `bioaudio finetune`")
    classes = tuple(map(str, about["classes"]))
    classifier = SequenceClassifier(model.backbone, len(classes), about["pooling"])
    try:
        classifier.head.load_state_dict(safetensors.torch.load_file(directory / HEAD))
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise ValueError(f"{directory / HEAD} is damaged: {str(error).splitlines()[0]}") from error
    return classifier, classes
