"""The network over waveforms that a pretraining starts from, and what its checkpoint says of its codes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from bioaudio_data.audio import Quantiser

from bioaudio_mamba import SashimiConfig, WaveformLM, audio_presets
from bioaudio_mamba.pretrained import load_pretrained_waveform
from bioaudio_recipes.pretrain.starting_model import check_same_sizes
from bioaudio_recipes.pretrain.waveform_data import WaveformCorpus

ABOUT = "waveform"
"""Key of the checkpoint under which `WaveformCorpus.about` is kept."""

WaveformPreset = Literal[
    "sashimi_without_unet",
    "sashimi_tied",
    "sashimi",
    "mamba_speech_small",
    "mamba_speech_large",
    "mamba_piano",
    "mamba_s4_piano",
]
"""Networks of the SaShiMi and Mamba papers, functions of `bioaudio_mamba.audio_presets`."""


@dataclass(frozen=True)
class Sound:
    """What the codes and the classes of a network over waveforms mean."""

    quantiser: Quantiser
    sample_rate: int
    """Samples a second."""
    labels: tuple[str, ...]
    """Classes; empty for a network without."""
    label_dropout: float = field(default=0.0, compare=False)
    """Share of the training windows whose label was left out."""

    def __str__(self) -> str:
        """In a sentence."""
        classes = f" with the labels {', '.join(self.labels)}" if self.labels else " without labels"
        return f"{self.quantiser} at {self.sample_rate:,} Hz{classes}"


def load_waveform_model(folder: Path, device: torch.device | str = "cpu") -> tuple[WaveformLM, Sound]:
    """A network and the meaning of its codes, as a run wrote them.

    Raises:
        FileNotFoundError: if the folder or a file is missing.
        ValueError: if it is damaged, or does not say what its codes mean.
    """
    model, extra = load_pretrained_waveform(folder, device)
    return model, sound_of(folder, extra)


def sound_of(folder: Path, extra: dict[str, Any]) -> Sound:
    """What the checkpoint in `folder` says of its codes in what was saved beside the weights.

    Raises:
        ValueError: if that is nothing.
    """
    about: Any = extra.get(ABOUT)
    try:
        return Sound(
            Quantiser(**about["quantiser"]),
            int(about["sample_rate"]),
            tuple(about["labels"]),
            float(about.get("label_dropout", 0)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"checkpoint {folder} does not say what its codes mean ({error})") from error


def starting_waveform_model(
    model: SashimiConfig | WaveformPreset | None, init_from: Path | None, seed: int, corpus: WaveformCorpus
) -> WaveformLM:
    """Build the network for the codes and labels of `corpus`, with weights from `seed` or a checkpoint.

    Raises:
        FileNotFoundError: if `init_from` is not there.
        ValueError: if neither is given, or sizes, quantiser, rate or labels differ.
    """
    config = getattr(audio_presets, model)() if isinstance(model, str) else model
    if config is not None:
        classes = len(corpus.labels)
        if config.n_classes not in (0, classes):
            raise ValueError(
                f"--model.n_classes is {config.n_classes}, but --data.conditional {corpus.data.conditional} "
                f"makes it {classes}; leave it out"
            )
        config = replace(config, n_classes=classes)
        if config.vocab_size != corpus.quantiser.codes:
            raise ValueError(
                f"--model.vocab_size is {config.vocab_size}, but {corpus.quantiser} has "
                f"{corpus.quantiser.codes} codes"
            )
    if init_from is None:
        if config is None:
            raise ValueError(
                "--model is missing; give a preset, as mamba_speech_small, sizes, or --init_from"
            )
        return WaveformLM(config, torch.Generator().manual_seed(seed))
    loaded, sound = load_waveform_model(init_from)
    wanted = Sound(corpus.quantiser, corpus.store.sample_rate, corpus.labels)
    if sound != wanted:
        raise ValueError(
            f"checkpoint {init_from} hears {sound}; store {corpus.store.path} gives it {wanted}: "
            f"{_remedy(sound, wanted)}"
        )
    check_same_sizes(config, loaded.config, init_from)
    return loaded


def _remedy(sound: Sound, wanted: Sound) -> str:
    """What to do about the first difference."""
    if sound.sample_rate != wanted.sample_rate:
        return f"prepare a store with `bioaudio prepare-audio --sample-rate {sound.sample_rate}`"
    if sound.quantiser != wanted.quantiser:
        return "set --data.quantiser to what the checkpoint has: " + ", ".join(
            f"{name} {value}" for name, value in sound.quantiser.to_dict().items()
        )
    if bool(sound.labels) != bool(wanted.labels):
        return f"give --data.conditional {'true' if sound.labels else 'false'}"
    return "the labels must be the same"
