"""Checkpoint folders of waveform networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from unet_reference import BLOCKS, codes, small_unet

from bioaudio_mamba import CausalLM, MambaConfig, WaveformLM
from bioaudio_mamba.pretrained import load_pretrained, load_pretrained_waveform, save_pretrained


@pytest.fixture
def network() -> WaveformLM:
    blocks = (BLOCKS["mamba-s4"], BLOCKS["complex mamba"], BLOCKS["s4"])
    return small_unet(*blocks, n_classes=2, pool_gain=True).float()


def test_a_saved_network_loads_as_it_was(network: WaveformLM, tmp_path: Path) -> None:
    save_pretrained(network, tmp_path, {"quantiser": "mu-law"})
    loaded, extra = load_pretrained_waveform(tmp_path)
    assert extra == {"quantiser": "mu-law"}
    assert loaded.config == network.config
    tokens, labels = codes(2, 11), torch.tensor([1, 0])
    assert torch.equal(loaded(tokens, labels=labels)[0], network(tokens, labels=labels)[0])


def test_neither_loader_takes_the_others_folder(network: WaveformLM, tmp_path: Path) -> None:
    save_pretrained(network, tmp_path / "sound")
    save_pretrained(CausalLM(MambaConfig(d_model=4, n_layer=1)), tmp_path / "tokens")
    with pytest.raises(ValueError, match="describes a network over waveforms, not a model of tokens"):
        load_pretrained(tmp_path / "sound")
    with pytest.raises(ValueError, match="describes a model of tokens, not a network over waveforms"):
        load_pretrained_waveform(tmp_path / "tokens")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"d_model": 0}, "d_model must be a positive integer, got 0"),
        ({"pooling": 4}, "pooling holds a int, expected a list"),
        ({"pooling": [2]}, "blocks holds 3 blocks; 1 poolings make 2 levels"),
        ({"blocks": [3]}, "blocks holds a int, expected objects"),
        ({"blocks": [{"d_conv": 0}]}, "d_conv must be a positive integer, got 0"),
        ({"blocks": [{"width": 3}]}, "a block has the fields width, which mean nothing here"),
    ],
    ids=str,
)
def test_a_configuration_that_does_not_fit_is_named(
    network: WaveformLM, tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    save_pretrained(network, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=complaint) as error:
        load_pretrained_waveform(tmp_path)
    assert str(path) in str(error.value)
