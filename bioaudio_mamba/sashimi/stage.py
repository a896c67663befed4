"""The residual layers of a stage."""

from __future__ import annotations

import torch
from torch import nn

from bioaudio_mamba.attention import Attention
from bioaudio_mamba.block import MambaBlock
from bioaudio_mamba.config import MambaConfig
from bioaudio_mamba.feed_forward import FeedForward
from bioaudio_mamba.norm import LayerNorm, RMSNorm
from bioaudio_mamba.residual import Mixer, ResidualLayer
from bioaudio_mamba.s4_block import MambaS4Block, S4Block
from bioaudio_mamba.sashimi.config import SashimiConfig


def make_stage(config: SashimiConfig, level: int, generator: torch.Generator | None = None) -> nn.ModuleList:
    """`n_layer` blocks at the width of a level: one residual layer each, or two with a feed-forward layer."""
    width = config.width(level)
    layers = []
    for _ in range(config.n_layer):
        for mixer in _mixers(config, level, generator):
            norm = (
                RMSNorm(width, config.norm_eps, config.backend)
                if config.norm == "rms"
                else LayerNorm(width, config.norm_eps, config.backend)
            )
            layers.append(ResidualLayer(norm, mixer))
    return nn.ModuleList(layers)


def _mixers(config: SashimiConfig, level: int, generator: torch.Generator | None) -> list[Mixer]:
    block, width, backend = config.block(level), config.width(level), config.backend
    match block.kind:
        case "mamba":
            sizes = MambaConfig(
                d_model=width,
                n_layer=config.n_blocks,
                d_state=block.states,
                d_conv=block.d_conv,
                expand=block.expand,
                dt_rank=block.dt_rank,
                dt_min=block.dt_min,
                dt_max=block.dt_max,
                backend=backend,
            )
            return [MambaBlock(sizes, generator, init=block.spectrum)]
        case "mamba-s4":
            return [MambaS4Block(width, config.n_blocks, block, backend, generator)]
        case "s4":
            mixer = S4Block(width, block, backend, generator)
        case "attention":
            mixer = Attention(width, config.n_blocks, block.n_head, generator)
    return [mixer, FeedForward(width, block.expand, generator)]
