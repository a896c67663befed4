"""The weights of a checkpoint folder: read without running code, fitted to a model, every misfit named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from bioaudio_mamba.lm import CausalLM, LanguageModel

SAFETENSORS = "model.safetensors"
PICKLED = "pytorch_model.bin"
_HEAD, _EMBEDDING = "lm_head.weight", "backbone.embeddings.weight"
_NAMED_AT_MOST = 4


def find_weights(directory: Path) -> Path:
    """The file of weights in a checkpoint folder, model.safetensors before pytorch_model.bin.

    Raises:
        FileNotFoundError: there is neither.
    """
    for name in (SAFETENSORS, PICKLED):
        if (directory / name).is_file():
            return directory / name
    raise FileNotFoundError(f"{directory} holds neither {SAFETENSORS} nor {PICKLED}")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of weights, in float32, under transformers' names.

    A pickle is read by torch's weights-only loader, which refuses anything but plain tensors.

    Raises:
        ValueError: the file is cut short, of another format, or holds something else than tensors of numbers.
    """
    try:
        if path.name == SAFETENSORS:
            content: Any = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle may raise anything: IndexError, KeyError, struct.error ...
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} is not a readable file of weights (cut short?): {reason}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not named tensors")
    weights = {}
    for key, tensor in content.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise ValueError(f"{path}: {key} is not a tensor of floating-point numbers")
        # mamba_ssm calls the embedding `embedding`.
        weights[str(key).replace("backbone.embedding.", "backbone.embeddings.")] = tensor.float()
    return weights


def fit_weights(model: LanguageModel, weights: dict[str, Tensor], path: Path) -> None:
    """Give `weights` (read from `path`) to `model`, whose own may be on the meta device.

    A tied head may be absent from the file.

    Raises:
        ValueError: a key is missing or unexpected, a shape differs, or a tied head is not the embedding.
    """
    tied = model if isinstance(model, CausalLM) and model.config.tie_embeddings else None
    if tied is not None and _EMBEDDING in weights:
        head = weights.setdefault(_HEAD, weights[_EMBEDDING])
        if not torch.equal(head, weights[_EMBEDDING]):
            raise ValueError(f"{path}: {_HEAD} differs from {_EMBEDDING}, but the configuration ties them")
    expected = model.state_dict()
    if missing := expected.keys() - weights.keys():
        raise ValueError(f"{path} lacks {_listed(missing)}")
    if unexpected := weights.keys() - expected.keys():
        raise ValueError(f"{path} holds {_listed(unexpected)}, which a model of this configuration has not")
    for key, tensor in weights.items():
        if tensor.shape != expected[key].shape:
            raise ValueError(
                f"{path}: {key} has shape {tuple(tensor.shape)}, the configuration asks for"
                f" {tuple(expected[key].shape)}"
            )
    model.load_state_dict(weights, assign=True)
    if tied is not None:
        tied.tie_weights()


def write_weights(model: LanguageModel, path: Path) -> None:
    """Write a model's weights as safetensors, a tied head once.

    Raises:
        OSError: the file cannot be written (a full disk, say).
    """
    weights = {name: parameter.detach().contiguous().cpu() for name, parameter in model.named_parameters()}
    try:
        safetensors.torch.save_file(weights, path, metadata={"format": "pt"})
    except safetensors.SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error


def _listed(keys: set[str]) -> str:
    first = ", ".join(sorted(keys)[:_NAMED_AT_MOST])
    return first if len(keys) <= _NAMED_AT_MOST else f"{first} and {len(keys) - _NAMED_AT_MOST} more"
