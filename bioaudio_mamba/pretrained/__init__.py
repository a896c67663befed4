"""Pretrained weights in and out: a folder with config.json and model.safetensors, as transformers' "mamba"."""

from bioaudio_mamba.pretrained.folder import load_pretrained, save_pretrained

__all__ = ["load_pretrained", "save_pretrained"]
