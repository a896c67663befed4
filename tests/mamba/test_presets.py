"""The paper's seven sizes, and what a configuration refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from unet_reference import small_unet

from bioaudio_mamba import (
    BlockConfig,
    CausalLM,
    MambaConfig,
    SashimiConfig,
    WaveformLM,
    audio_presets,
    count_parameters,
    presets,
)


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        (presets.mamba_dna_250k, 262_720),
        (presets.mamba_dna_700k, 684_192),
        (presets.mamba_dna_1_4m, 1_401_472),
        (presets.mamba_dna_3_5m, 3_527_232),
        (presets.mamba_dna_7m, 7_012_608),
        (presets.mamba_dna_19m, 19_291_008),
        (presets.mamba_dna_40m, 40_694_272),
    ],
)
def test_presets_have_the_parameters_of_the_paper(preset: Callable[[], MambaConfig], parameters: int) -> None:
    with torch.device("meta"):
        model = CausalLM(preset())
    assert count_parameters(model) == parameters


@pytest.mark.parametrize(
    ("preset", "parameters", "low_rank"),
    [
        (audio_presets.sashimi_without_unet, 4_073_600, 24),
        (audio_presets.sashimi_tied, 5_865_472, 40),
        (audio_presets.sashimi, 6_840_832, 16 * 64 + 16 * 128 + 8 * 256),
        (audio_presets.mamba_speech_small, 6_255_104, 0),
        (audio_presets.mamba_speech_large, 24_851_008, 0),
        (audio_presets.mamba_piano, 3_557_248, 0),
    ],
)
def test_waveform_networks_have_the_parameters_of_the_papers(
    preset: Callable[[], SashimiConfig], parameters: int, low_rank: int
) -> None:
    """But for the low-rank vector of 32 complex numbers, which each system of S4 has and S4D has not."""
    with torch.device("meta"):
        model = WaveformLM(preset())
    assert count_parameters(model) == parameters - 64 * low_rank


def test_real_and_complex_states_of_one_size_have_as_many_parameters() -> None:
    networks = [small_unet(BlockConfig(complex=is_complex, d_state=8)) for is_complex in (False, True)]
    assert count_parameters(networks[0]) == count_parameters(networks[1])


def test_an_untied_head_adds_its_own_parameters() -> None:
    tied = CausalLM(MambaConfig(d_model=16, n_layer=1))
    untied = CausalLM(MambaConfig(d_model=16, n_layer=1, tie_embeddings=False))
    assert count_parameters(untied) == count_parameters(tied) + 16 * 16


def test_dt_rank_defaults_to_a_sixteenth_of_the_width_rounded_up() -> None:
    assert MambaConfig(d_model=96, n_layer=1).rank == 6
    assert MambaConfig(d_model=97, n_layer=1).rank == 7
    assert MambaConfig(d_model=97, n_layer=1, dt_rank=2).rank == 2
    assert MambaConfig(d_model=97, n_layer=1, dt_rank=7) == MambaConfig(d_model=97, n_layer=1)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"d_model": 0}, "d_model must be a positive integer, got 0"),
        ({"dt_rank": -1}, "dt_rank must be a positive integer, got -1"),
        ({"dt_min": 0.2}, "dt_min = 0.2 and dt_max = 0.1"),
        ({"norm_eps": 0.0}, "norm_eps must be positive, got 0.0"),
    ],
)
def test_config_refuses_what_cannot_be_built(setting: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        MambaConfig(**{"d_model": 16, "n_layer": 1, **setting})
