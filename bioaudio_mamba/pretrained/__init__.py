"""Pretrained weights in and out: folders with config.json and model.safetensors, as transformers has them."""

from bioaudio_mamba.pretrained.folder import load_pretrained, save_pretrained

__all__ = ["load_pretrained", "save_pretrained"]
