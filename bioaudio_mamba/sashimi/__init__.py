"""SaShiMi (arXiv 2202.09729): a causal U-Net over raw waveforms, every stage at a rate of its own."""

from bioaudio_mamba.sashimi.backbone import Sashimi
from bioaudio_mamba.sashimi.config import SashimiConfig
from bioaudio_mamba.sashimi.level import CentreState, LevelState, SashimiState

__all__ = ["CentreState", "LevelState", "Sashimi", "SashimiConfig", "SashimiState"]
