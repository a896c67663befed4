"""Pretrained weights in and out: folders with config.json and model.safetensors, as transformers has them."""

from bioaudio_mamba.pretrained.folder import (
    load_pretrained,
    load_pretrained_waveform,
    read_description,
    save_pretrained,
)
from bioaudio_mamba.pretrained.weights import find_weights

__all__ = [
    "find_weights",
    "load_pretrained",
    "load_pretrained_waveform",
    "read_description",
    "save_pretrained",
]
