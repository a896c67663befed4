"""A trained classifier in a folder: its backbone as any pretrained model, its head beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import safetensors
import safetensors.torch
import torch
from bioaudio_data.vocabulary import DNA

from bioaudio_mamba import CausalLM, SequenceClassifier
from bioaudio_mamba.classifier import Pooling
from bioaudio_mamba.pretrained import load_pretrained, save_pretrained
from bioaudio_mamba.pretrained.replacing import replacing

HEAD = "classifier.safetensors"


def save_classifier(model: SequenceClassifier, classes: Sequence[str], directory: Path) -> None:
    """Write config.json and model.safetensors (the backbone, as `load_pretrained` reads it) and the head.

    The language-model head is that of the embedding; one that was trained apart from it is not kept.
    """
    with torch.device("meta"):  # everything in it is about to be replaced
        backbone = CausalLM(replace(model.backbone.config, tie_embeddings=True))
    backbone.backbone = model.backbone
    backbone.tie_weights()
    directory.mkdir(parents=True, exist_ok=True)
    head = {name: tensor.detach().cpu().contiguous() for name, tensor in model.head.state_dict().items()}
    with replacing(directory / HEAD) as path:
        safetensors.torch.save_file(head, path)
        about = {"classes": list(classes), "pooling": model.pooling}
        save_pretrained(backbone, directory, {"vocabulary": DNA.to_dict(), "classifier": about})


def load_classifier(
    directory: Path, device: torch.device | str = "cpu"
) -> tuple[SequenceClassifier, tuple[str, ...]]:
    """Read what `save_classifier` wrote; returns the classifier and the names of its classes.

    Raises:
        FileNotFoundError: if the folder or a file is missing.
        ValueError: if the folder holds no classifier of DNA, or a file is damaged.
    """
    backbone, extra = load_pretrained(directory)
    about: Any = extra.get("classifier")
    if not isinstance(about, dict) or about.get("pooling") not in get_args(Pooling):
        raise ValueError(f"{directory} holds no classifier; make one with `bioaudio finetune`")
    if extra["vocabulary"]["fingerprint"] != DNA.fingerprint():
        raise ValueError(f"{directory} has the vocabulary {extra['vocabulary']['name']}, not {DNA.name}")
    classes = tuple(map(str, about["classes"]))
    model = SequenceClassifier(backbone.backbone, len(classes), about["pooling"])
    try:
        model.head.load_state_dict(safetensors.torch.load_file(directory / HEAD))
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise ValueError(f"{directory / HEAD} is damaged: {str(error).splitlines()[0]}") from error
    return model.to(device), classes
