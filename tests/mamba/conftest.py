"""A model small enough that a hundred of its tests take seconds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bioaudio_mamba import CausalLM, MambaConfig


@pytest.fixture
def config() -> MambaConfig:
    return MambaConfig(d_model=16, n_layer=2, d_state=4)


@pytest.fixture
def model(config: MambaConfig, rng: torch.Generator) -> CausalLM:
    return CausalLM(config, rng)


@pytest.fixture
def tokens(config: MambaConfig, rng: torch.Generator) -> Tensor:
    return torch.randint(config.vocab_size, (3, 12), generator=rng)
