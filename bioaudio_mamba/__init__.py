"""Mamba blocks, backbones, heads, streaming state and pretrained weights."""
