"""The same folder, read by us and by transformers, is the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tolerances import OUTPUT_RTOL, assert_close
from torch import Tensor

from bioaudio_mamba import CausalLM
from bioaudio_mamba.pretrained import load_pretrained, save_pretrained


@pytest.fixture(scope="module")
def transformers() -> Any:
    """transformers without torchaudio, which it would import for its own sake and which may not fit torch."""
    with pytest.MonkeyPatch.context() as patch:
        package = pytest.importorskip("transformers")
        patch.setattr("transformers.utils.is_torchaudio_available", lambda: False)
        package.utils.logging.set_verbosity_error()
        package.utils.logging.disable_progress_bar()
        assert package.MambaForCausalLM
    return package


def test_transformers_reads_what_we_write(
    transformers: Any, model: CausalLM, tokens: Tensor, tmp_path: Path
) -> None:
    save_pretrained(model, tmp_path, {"vocabulary": {"name": "dna"}})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(theirs) is transformers.MambaForCausalLM
    assert theirs.config.bioaudio == {"vocabulary": {"name": "dna"}}
    assert_close(theirs(tokens).logits, model(tokens)[0], OUTPUT_RTOL[torch.float32], "logits")


@pytest.mark.parametrize("tied", [True, False])
def test_we_read_what_transformers_writes(
    transformers: Any, tokens: Tensor, tmp_path: Path, tied: bool
) -> None:
    settings = transformers.MambaConfig(
        vocab_size=16,
        hidden_size=24,
        num_hidden_layers=2,
        state_size=3,
        conv_kernel=3,
        expand=3,
        time_step_rank=5,
        layer_norm_epsilon=1e-3,
        tie_word_embeddings=tied,
    )
    theirs = transformers.MambaForCausalLM(settings)
    theirs.save_pretrained(tmp_path)
    ours, extra = load_pretrained(tmp_path)
    assert extra == {}
    assert (ours.config.rank, ours.config.tie_embeddings) == (5, tied)
    assert_close(ours(tokens)[0], theirs(tokens).logits, OUTPUT_RTOL[torch.float32], "logits")


def test_our_extra_survives_a_round_through_transformers(
    transformers: Any, model: CausalLM, tokens: Tensor, tmp_path: Path
) -> None:
    extra = {"vocabulary": {"tokens": ["A", "C"], "padded_size": 16}}
    save_pretrained(model, tmp_path / "ours", extra)
    transformers.MambaForCausalLM.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    again, extra_again = load_pretrained(tmp_path / "theirs")
    assert extra_again == extra
    assert torch.equal(again(tokens)[0], model(tokens)[0])
