"""The model that a pretraining starts from: sizes by name or number with fresh weights, or a checkpoint's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from bioaudio_data.vocabulary import DNA

from bioaudio_mamba import CausalLM, MambaConfig, SashimiConfig, presets
from bioaudio_mamba.pretrained import load_pretrained

Preset = Literal[
    "mamba_dna_250k",
    "mamba_dna_700k",
    "mamba_dna_1_4m",
    "mamba_dna_3_5m",
    "mamba_dna_7m",
    "mamba_dna_19m",
    "mamba_dna_40m",
]
"""Sizes of the Mamba paper's DNA experiments, functions of `bioaudio_mamba.presets`."""


def starting_model(model: MambaConfig | Preset | None, init_from: Path | None, seed: int) -> CausalLM:
    """Build the model, with weights drawn from `seed` or taken from the folder `init_from`.

    Raises:
        FileNotFoundError: if `init_from` is not there.
        ValueError: if neither is given, the sizes differ from the checkpoint's, or its vocabulary is not DNA.
    """
    config = getattr(presets, model)() if isinstance(model, str) else model
    if init_from is None:
        if config is None:
            raise ValueError("--model is missing; give a preset, as mamba_dna_1_4m, sizes, or --init_from")
        if config.vocab_size < DNA.size:
            raise ValueError(
                f"--model.vocab_size must be {DNA.size} or more for DNA, got {config.vocab_size}"
            )
        return CausalLM(config, torch.Generator().manual_seed(seed))
    loaded, extra = load_pretrained(init_from, backend=config.backend if config is not None else "auto")
    _check_vocabulary(init_from, extra)
    check_same_sizes(config, loaded.config, init_from)
    return loaded


def check_same_sizes(
    config: MambaConfig | SashimiConfig | None, loaded: MambaConfig | SashimiConfig, folder: Path
) -> None:
    """Refuse sizes that are given beside a checkpoint and are not its own.

    Raises:
        ValueError: naming the first setting that differs.
    """
    if config is None or config == loaded:
        return
    given, own = vars(config), vars(loaded)
    name, *others = [name for name in given if given[name] != own[name]]
    more = f" ({', '.join(others[:3])} differ too)" if others else ""
    raise ValueError(
        f"--model.{name} is {given[name]}, that of the checkpoint {folder} {own[name]}{more}; give its "
        "sizes, or --model null to take them from there"
    )


def _check_vocabulary(folder: Path, extra: dict[str, Any]) -> None:
    vocabulary = extra.get("vocabulary") or {}
    if vocabulary.get("fingerprint") != DNA.fingerprint():
        raise ValueError(
            f"checkpoint {folder} has the vocabulary {vocabulary.get('name', 'of an unknown kind')} "
            f"({vocabulary.get('fingerprint', 'no fingerprint')}); this run needs {DNA.name} "
            f"({DNA.fingerprint()})"
        )
