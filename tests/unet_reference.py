"""SaShiMi's U-Net in its plainest form: whole sequences, folds and unfolds, and no state anywhere."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bioaudio_mamba import BlockConfig, SashimiConfig, WaveformLM

BLOCKS = {
    "mamba": BlockConfig(d_state=4),
    "complex mamba": BlockConfig(complex=True, d_state=4),
    "mamba-s4": BlockConfig(kind="mamba-s4", d_state=4),
    "s4": BlockConfig(kind="s4", d_state=4, init="legs", tied=True),
    "real bilinear s4": BlockConfig(kind="s4", d_state=2, complex=False, rule="bilinear", glu=False),
    "attention": BlockConfig(kind="attention", n_head=2),
}
"""A block of each kind."""


def small_unet(*blocks: BlockConfig, **changes: Any) -> WaveformLM:
    """Three levels of one block, in float64."""
    sizes: dict[str, Any] = {"d_model": 4, "n_layer": 1, "pooling": (3, 2), "vocab_size": 7, **changes}
    config = SashimiConfig(blocks=blocks or (BLOCKS["mamba"],), **sizes)
    return WaveformLM(config, torch.Generator().manual_seed(1)).double()


def codes(batch: int, length: int, vocab_size: int = 7) -> Tensor:
    """Random codes."""
    return torch.randint(vocab_size, (batch, length), generator=torch.Generator().manual_seed(length))


def naive_logits(model: WaveformLM, tokens: Tensor, labels: Tensor | None = None) -> Tensor:
    """The logits of `model`. Sequences are filled up to whole cycles, which changes nothing before."""
    network, length = model.backbone, tokens.shape[1]
    x = network.embeddings(F.pad(tokens, (0, -length % model.config.cycle)))
    if labels is not None:
        x = x + network.class_embeddings(labels).unsqueeze(1)  # pyright: ignore[reportOptionalCall]
    return model.lm_head(network.norm_f(_level(network.level, x)))[:, :length]


def _level(level: Any, x: Tensor) -> Tensor:
    if not hasattr(level, "pool"):
        start = x
        for layer in level.layers:
            x = _layer(layer, x)
        return x + start
    skips = [x]
    for layer in level.down:
        x = _layer(layer, x)
        skips.append(x)
    batch, length, width = x.shape
    p = level.pool.pool
    below = level.pool.down_proj(x.reshape(batch, length // p, p * width))
    risen = level.pool.up_proj(_level(level.below, below))
    delayed = torch.cat([torch.zeros_like(risen[:, :1]), risen[:, :-1]], 1)
    x = start = delayed.reshape(batch, length, width) + skips.pop()
    for layer in level.up:
        x = _layer(layer, x)
        if level.unet:
            x = x + skips.pop()
    return x if level.unet else x + start


def _layer(layer: Any, x: Tensor) -> Tensor:
    return x + layer.mixer(layer.norm(x))[0]
