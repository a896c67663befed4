"""The language model of a run's folder, or of a model's folder, on the device that was asked for."""

from __future__ import annotations

from pathlib import Path

import torch

from bioaudio_mamba import CausalLM
from bioaudio_recipes.pretrain.starting_model import starting_model
from bioaudio_recipes.run_folder import RunFolder


def require_folder(path: Path) -> None:
    """Raise FileNotFoundError unless there is a folder at `path`."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is neither a run's folder nor a model's: there is no such folder")


def open_model(path: Path, device: str) -> CausalLM:
    """Load the model of a run, or the one in the folder `path` itself.

    Args:
        path: a run's folder, or one with config.json and model.safetensors.
        device: auto (a GPU if there is one), cpu, cuda, cuda:1, ...

    Raises:
        FileNotFoundError: if there is no folder, or no model in it.
        ValueError: if the model is damaged or not of DNA, or the device cannot be used.
    """
    require_folder(path)
    run = RunFolder(path)
    target = device_named(device)
    return starting_model(None, run.model if run.model.is_dir() else path, seed=0).to(target).eval()


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
