"""Networks over raw waveforms, in the sizes of the SaShiMi and Mamba papers (arXiv 2202.09729, 2312.00752).

Embedding of 256 codes, last layer norm and head with bias are common to all; blocks are counted as follows.

- Mamba blocks have an RMS norm each. The Mamba paper's speech networks have 6,255,104 and 24,851,008
  parameters, its piano network 3,557,248 (with 16 real numbers in a channel's state, real or complex).
- S4 blocks and their feed-forward layers have a layer norm each. The published SaShiMi counts, 4,073,600
  without U-Net, 5,865,472 with it and 6,840,832 with an S4 system for every channel, are those of S4 in its
  diagonal-plus-low-rank form. S4D is that form without its low-rank vector: 64 numbers less for each system.
"""

from __future__ import annotations

from bioaudio_mamba.block_config import BlockConfig
from bioaudio_mamba.sashimi import SashimiConfig


def sashimi_without_unet() -> SashimiConfig:
    """SaShiMi as first published, blocks on the way up only and no gates: 4,072,064 parameters."""
    block = BlockConfig(kind="s4", tied=True, glu=False)
    return SashimiConfig(blocks=(block,), unet=False, norm="layer", pool_gain=True)


def sashimi_tied() -> SashimiConfig:
    """SaShiMi, the channels of a block sharing A and B: 5,862,912 parameters."""
    return SashimiConfig(blocks=(BlockConfig(kind="s4", tied=True),), norm="layer")


def sashimi() -> SashimiConfig:
    """SaShiMi, every channel with an A and B of its own: 6,513,152 parameters."""
    return SashimiConfig(blocks=(BlockConfig(kind="s4"),), norm="layer")


def mamba_speech_small() -> SashimiConfig:
    """The Mamba paper's smaller network for SC09, width 64 and 8 blocks a stage: 6,255,104 parameters."""
    return SashimiConfig()


def mamba_speech_large() -> SashimiConfig:
    """The Mamba paper's larger network for SC09, width 96 and 15 blocks a stage: 24,851,008 parameters."""
    return SashimiConfig(d_model=96, n_layer=15)


def mamba_piano() -> SashimiConfig:
    """The Mamba paper's network for piano music, selective and complex: 3,557,248 parameters."""
    return SashimiConfig(n_layer=3, pooling=(16, 16), blocks=(BlockConfig(complex=True),))


def mamba_s4_piano() -> SashimiConfig:
    """The same with time-invariant outer levels, best on raw audio in the paper's ablation."""
    outer, centre = BlockConfig(kind="mamba-s4"), BlockConfig(complex=True)
    return SashimiConfig(n_layer=3, pooling=(16, 16), blocks=(outer, outer, centre))
