"""Save a language model to a folder, and load one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from bioaudio_kernels import Backend

from bioaudio_mamba.config import MambaConfig
from bioaudio_mamba.lm import CausalLM, LanguageModel, WaveformLM
from bioaudio_mamba.pretrained.layouts import read_layout, to_layout
from bioaudio_mamba.pretrained.replacing import replacing
from bioaudio_mamba.pretrained.weights import (
    SAFETENSORS,
    find_weights,
    fit_weights,
    read_weights,
    write_weights,
)
from bioaudio_mamba.sashimi import SashimiConfig

CONFIG = "config.json"
_EXTRA = "bioaudio"


def save_pretrained(model: LanguageModel, directory: str | Path, extra: dict[str, Any] | None = None) -> None:
    """Write config.json and model.safetensors, as transformers' MambaForCausalLM.from_pretrained reads them.

    (A SaShiMi network has no class there: its config.json holds the fields of its `SashimiConfig`.)
    Both files are written whole beside their places before either takes its place, config.json last: a run
    that is killed on the way leaves what was there before. Other files of the folder are left alone.

    Args:
        model: the model to save; its weights keep their dtype.
        directory: created if missing.
        extra: kept in config.json under "bioaudio" and given back by `load_pretrained`: what the weights
            need to be used, such as the vocabulary. JSON values only.

    Raises:
        ValueError: `extra` would not come back from JSON as it is.
        OSError: a file cannot be written.
    """
    content = to_layout(model.config) | {_EXTRA: _checked_extra(extra or {})}
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with replacing(directory / CONFIG) as config_path, replacing(directory / SAFETENSORS) as weights_path:
        config_path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        write_weights(model, weights_path)


def load_pretrained(
    directory: str | Path, device: torch.device | str = "cpu", *, backend: Backend = "auto"
) -> tuple[CausalLM, dict[str, Any]]:
    """Read a folder written by `save_pretrained`, by transformers (model_type "mamba") or by mamba_ssm.

    No code of the checkpoint runs. The weights come out in float32.

    Args:
        directory: holds config.json, and model.safetensors or pytorch_model.bin.
        device: where the model is put.
        backend: the kernels that the model is to use; not a property of the checkpoint.

    Returns:
        the model, and the `extra` that was saved with it ({} for a folder of other origin).

    Raises:
        FileNotFoundError: the folder or a file is missing.
        ValueError: a file is damaged or does not describe a `CausalLM`; the file and the key are named.
    """
    directory = Path(directory)
    content, config = _described(directory, backend)
    if isinstance(config, SashimiConfig):
        raise ValueError(f"{directory / CONFIG} describes a network over waveforms, not a model of tokens")
    with torch.device("meta"):  # no draw of weights that are about to be replaced
        model = CausalLM(config)
    _fill(model, directory)
    return model.to(device), content.get(_EXTRA, {})


def load_pretrained_waveform(
    directory: str | Path, device: torch.device | str = "cpu", *, backend: Backend = "auto"
) -> tuple[WaveformLM, dict[str, Any]]:
    """Read a folder that `save_pretrained` wrote of a `WaveformLM`; all else is as in `load_pretrained`."""
    directory = Path(directory)
    content, config = _described(directory, backend)
    if not isinstance(config, SashimiConfig):
        raise ValueError(f"{directory / CONFIG} describes a model of tokens, not a network over waveforms")
    with torch.device("meta"):
        model = WaveformLM(config)
    _fill(model, directory)
    return model.to(device), content.get(_EXTRA, {})


def read_description(directory: str | Path) -> tuple[MambaConfig | SashimiConfig, dict[str, Any]]:
    """What config.json says, without the weights: the configuration, and the `extra` saved with it.

    Raises:
        FileNotFoundError: the folder or its config.json is missing.
        ValueError: config.json is damaged, or describes no model of ours.
    """
    content, config = _described(Path(directory), "auto")
    return config, content.get(_EXTRA, {})


def _described(directory: Path, backend: Backend) -> tuple[dict[str, Any], MambaConfig | SashimiConfig]:
    """The content of config.json, and the configuration in it."""
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is not a folder: expected one with {CONFIG} and {SAFETENSORS}")
    content = _read_config(directory / CONFIG)
    try:
        return content, read_layout(content, backend)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{directory / CONFIG}: {error}") from error


def _fill(model: LanguageModel, directory: Path) -> None:
    path = find_weights(directory)
    fit_weights(model, read_weights(path), path)


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: a checkpoint folder holds {CONFIG} and {SAFETENSORS}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}, expected an object")
    if not isinstance(content.get(_EXTRA, {}), dict):
        raise ValueError(f"{path}: {_EXTRA!r} holds a {type(content[_EXTRA]).__name__}, expected an object")
    return content


def _checked_extra(extra: dict[str, Any]) -> dict[str, Any]:
    try:
        survives = json.loads(json.dumps(extra, allow_nan=False)) == extra
    except (TypeError, ValueError) as error:
        raise ValueError(f"extra cannot be written as JSON: {error}") from error
    if not survives:
        raise ValueError(
            "extra would come back from JSON changed: use lists (no tuples) and dictionaries with string keys"
        )
    return extra
