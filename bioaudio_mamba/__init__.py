"""Mamba blocks, backbones, heads, streaming state and pretrained weights."""

from bioaudio_mamba.backbone import Mamba
from bioaudio_mamba.block import BlockState, MambaBlock
from bioaudio_mamba.block_config import BlockConfig
from bioaudio_mamba.classifier import SequenceClassifier
from bioaudio_mamba.config import MambaConfig
from bioaudio_mamba.context import ContextGroup, shard_of
from bioaudio_mamba.fixed_systems import with_fixed_systems
from bioaudio_mamba.lm import CausalLM, LanguageModel, WaveformLM
from bioaudio_mamba.parameter_groups import count_parameters, optimizer_groups
from bioaudio_mamba.residual import ModelState
from bioaudio_mamba.sashimi import Sashimi, SashimiConfig, SashimiState
from bioaudio_mamba.time_chunks import sum_over_chunks

__all__ = [
    "BlockConfig",
    "BlockState",
    "CausalLM",
    "ContextGroup",
    "LanguageModel",
    "Mamba",
    "MambaBlock",
    "MambaConfig",
    "ModelState",
    "Sashimi",
    "SashimiConfig",
    "SashimiState",
    "SequenceClassifier",
    "WaveformLM",
    "count_parameters",
    "optimizer_groups",
    "shard_of",
    "sum_over_chunks",
    "with_fixed_systems",
]
