"""Checkpoint folders: what goes in comes out, damage is named, nothing half-written is left behind."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from bioaudio_mamba import CausalLM, MambaConfig
from bioaudio_mamba.pretrained import load_pretrained, save_pretrained

EXTRA = {"vocabulary": {"name": "dna", "tokens": ["A", "C"], "size": 2, "odd": None, "deep": [{"a": 1.5}]}}


@pytest.fixture
def folder(model: CausalLM, tmp_path: Path) -> Path:
    """A saved model."""
    save_pretrained(model, tmp_path / "model", EXTRA)
    return tmp_path / "model"


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, changes: dict[str, Tensor | None]) -> None:
    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path) | changes
    safetensors.torch.save_file({key: t for key, t in weights.items() if t is not None}, path)


def write_mamba_ssm_layout(model: CausalLM, folder: Path, **config: Any) -> None:
    """As mamba_ssm's save_pretrained does: its own config keys, a pickle, `embedding` in the singular."""
    folder.mkdir()
    weights = {key.replace("embeddings", "embedding"): t for key, t in model.state_dict().items()}
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(
        json.dumps(
            {"d_model": 16, "n_layer": 2, "vocab_size": 12, "ssm_cfg": {"d_state": 4}, "rms_norm": True}
            | {"residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 8}
            | config
        )
    )


def test_a_saved_model_loads_as_it_was(model: CausalLM, folder: Path, tokens: Tensor) -> None:
    loaded, extra = load_pretrained(folder)
    assert extra == EXTRA
    assert loaded.config == model.config
    assert torch.equal(loaded(tokens)[0], model(tokens)[0])
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert loaded.lm_head.weight is loaded.backbone.embeddings.weight


def test_a_tied_head_is_stored_once_and_an_untied_one_too(
    folder: Path, tmp_path: Path, tokens: Tensor, rng: torch.Generator
) -> None:
    assert "lm_head.weight" not in safetensors.torch.load_file(folder / "model.safetensors")
    untied = CausalLM(MambaConfig(d_model=16, n_layer=1, tie_embeddings=False), rng)
    save_pretrained(untied, tmp_path / "untied")
    loaded, extra = load_pretrained(tmp_path / "untied")
    assert extra == {}
    assert torch.equal(loaded(tokens)[0], untied(tokens)[0])


def test_loading_draws_nothing_and_gives_float32(model: CausalLM, tmp_path: Path) -> None:
    save_pretrained(model.bfloat16(), tmp_path)
    before = torch.get_rng_state()
    loaded, _ = load_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_the_backend_is_the_loaders_choice(folder: Path) -> None:
    assert load_pretrained(folder)[0].config.backend == "auto"
    assert load_pretrained(folder, backend="reference")[0].config.backend == "reference"


def test_mamba_ssm_layout_loads_and_pads_its_vocabulary(
    model: CausalLM, tmp_path: Path, tokens: Tensor
) -> None:
    write_mamba_ssm_layout(model, tmp_path / "theirs")
    loaded, extra = load_pretrained(tmp_path / "theirs")
    assert extra == {}
    assert loaded.config.vocab_size == 16
    assert torch.equal(loaded(tokens)[0], model(tokens)[0])


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"ssm_cfg": {"layer": "Mamba2"}}, "layer is 'Mamba2'; only 'Mamba1' is supported"),
        ({"rms_norm": False}, "rms_norm is False; only True is supported"),
        ({"attn_layer_idx": [1]}, "attn_layer_idx is"),
        ({"ssm_cfg": [1]}, "ssm_cfg holds a list, expected an object"),
    ],
)
def test_mamba_ssm_parts_that_we_lack_are_refused(
    model: CausalLM, tmp_path: Path, setting: dict[str, Any], complaint: str
) -> None:
    write_mamba_ssm_layout(model, tmp_path / "theirs", **setting)
    with pytest.raises(ValueError, match=complaint):
        load_pretrained(tmp_path / "theirs")


def test_a_pickle_that_would_run_code_is_refused(model: CausalLM, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    write_mamba_ssm_layout(model, tmp_path / "theirs")
    for write in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, 2))):
        write({"backbone.norm_f.weight": Attack()}, tmp_path / "theirs" / "pytorch_model.bin")
        with pytest.raises(ValueError, match=r"pytorch_model\.bin is not a readable file of weights"):
            load_pretrained(tmp_path / "theirs")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"backbone.layers.1.mixer.A_log": None}, r"lacks backbone\.layers\.1\.mixer\.A_log$"),
        ({"backbone.embeddings.weight": None}, r"lacks backbone\.embeddings\.weight, lm_head\.weight$"),
        ({"score.weight": torch.ones(2)}, r"holds score\.weight, which a model of this configuration"),
        ({"backbone.layers.0.mixer.D": torch.ones(7)}, r"mixer\.D has shape \(7,\), .* asks for \(32,\)"),
        ({"backbone.norm_f.weight": torch.ones(16).int()}, "not a tensor of floating-point numbers"),
        ({"lm_head.weight": torch.ones(16, 16)}, r"differs from backbone\.embeddings\.weight"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    folder: Path, changes: dict[str, Tensor | None], complaint: str
) -> None:
    edit_weights(folder, changes)
    with pytest.raises(ValueError, match=complaint) as error:
        load_pretrained(folder)
    assert str(folder / "model.safetensors") in str(error.value)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"vocab_size": 32},
            r"embeddings\.weight has shape \(16, 16\), the configuration asks for \(32,",
        ),
        ({"num_hidden_layers": 3}, r"lacks backbone\.layers\.2\..* and 6 more"),
        ({"hidden_size": 0}, r"config\.json: d_model must be a positive integer, got 0"),
        ({"intermediate_size": 99}, r"config\.json: intermediate_size is 99, expand \* hidden_size is 32"),
        ({"hidden_act": "gelu"}, r"config\.json: hidden_act is 'gelu'; only 'silu' is supported"),
        ({"model_type": "mamba2"}, r"config\.json: model_type is 'mamba2'"),
        ({"bioaudio": 3}, r"config\.json: 'bioaudio' holds a int, expected an object"),
    ],
)
def test_configurations_that_do_not_fit_are_named(
    folder: Path, changes: dict[str, Any], complaint: str
) -> None:
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match=complaint):
        load_pretrained(folder)


@pytest.mark.parametrize("kept", [0, 4, 100, 5000])
def test_truncated_weights_are_refused(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a readable file of weights \(cut short"):
        load_pretrained(folder)


@pytest.mark.parametrize("content", [b"", b"\x80", b"abc"])
def test_a_damaged_pickle_is_refused(model: CausalLM, tmp_path: Path, content: bytes) -> None:
    write_mamba_ssm_layout(model, tmp_path / "theirs")
    (tmp_path / "theirs" / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is not a readable file of weights"):
        load_pretrained(tmp_path / "theirs")


def test_a_truncated_configuration_is_refused(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        load_pretrained(folder)


def test_missing_files_are_named(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        load_pretrained(folder / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds neither model\.safetensors nor pytorch_model\.bin"):
        load_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        load_pretrained(folder)


def test_a_failed_save_leaves_the_old_files(
    folder: Path, model: CausalLM, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_pretrained(folder)[0](tokens)[0]

    def full_disk(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        path.write_bytes(b"half")
        raise safetensors.SafetensorError("No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full_disk)
    torch.nn.init.zeros_(model.backbone.norm_f.weight)
    with pytest.raises(OSError, match="No space left on device"):
        save_pretrained(model, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    loaded, extra = load_pretrained(folder)
    assert extra == EXTRA
    assert torch.equal(loaded(tokens)[0], expected)


@pytest.mark.parametrize("extra", [{"a": {1: "x"}}, {"a": (1, 2)}, {"a": {1, 2}}, {"a": float("nan")}])
def test_an_extra_that_json_would_change_is_refused(
    model: CausalLM, tmp_path: Path, extra: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="extra"):
        save_pretrained(model, tmp_path / "model", extra)
    assert not (tmp_path / "model").exists()
