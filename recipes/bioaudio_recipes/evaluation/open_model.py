"""The model of a run's folder, or of a model's folder, on the device that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from bioaudio_mamba import CausalLM, SashimiConfig
from bioaudio_mamba.pretrained import read_description
from bioaudio_recipes.pretrain.starting_model import starting_model
from bioaudio_recipes.run_folder import RunFolder

MEANT = {
    "DNA": "for a run over DNA there are `bioaudio evaluate` and `bioaudio score`",
    "sound": "for a run over sound there are `bioaudio generate` and (of clips) `bioaudio evaluate-speech`",
}
"""Commands that take a pretrained model, by what it reads."""


def weights_folder(path: Path, reads: Literal["DNA", "sound"]) -> Path:
    """The folder of a pretrained model's weights: RUN/model, or `path` itself.

    Raises:
        FileNotFoundError: if there is no folder, or no model in it.
        ValueError: if the model reads something else, or is a classifier.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is neither a run's folder nor a model's: there is no such folder")
    run = RunFolder(path)
    folder = run.model if run.model.is_dir() else path
    if folder == path and (path / "finetune").is_dir():
        raise _not_a_classifier(path)
    if folder == path and run.environment.is_file():
        raise FileNotFoundError(
            f"{path} holds no model yet: its training exports one when it ends or is told to stop; the "
            "command that began it goes on from its last checkpoint"
        )
    config, extra = read_description(folder)
    if "classifier" in extra:
        raise _not_a_classifier(path)
    found = "sound" if isinstance(config, SashimiConfig) else "DNA"
    if found != reads:
        raise ValueError(f"{path} holds a model of {found}, this command is for {reads}; {MEANT[found]}")
    return folder


def open_model(path: Path, device: str) -> CausalLM:
    """Load the model of a run over DNA, or the one in the folder `path` itself.

    Args:
        path: a run's folder, or one with config.json and model.safetensors.
        device: auto (a GPU if there is one), cpu, cuda, cuda:1, ...

    Raises:
        FileNotFoundError: if there is no folder, or no model in it.
        ValueError: if the model is damaged or not of DNA, or the device cannot be used.
    """
    folder = weights_folder(path, "DNA")
    target = device_named(device)
    return starting_model(None, folder, seed=0).to(target).eval()


def _not_a_classifier(path: Path) -> ValueError:
    return ValueError(
        f"{path} holds a classifier, judged when it was fine-tuned (evaluation/classification.json); "
        "this command is for a pretrained model"
    )


def device_named(name: str) -> torch.device:
    """The device that `--device` names; auto is a GPU if there is one.

    Raises:
        ValueError: if it cannot be used here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return torch.device(name)
