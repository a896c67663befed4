"""`bioaudio finetune-audio`: planted tones are told apart, from fresh and from pretrained weights."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bioaudio_data.audio import Quantiser, WaveformStore
from bioaudio_recipes import cli
from bioaudio_recipes.commands.finetune_audio import finetune_audio
from bioaudio_recipes.finetune.batches import collate
from bioaudio_recipes.finetune.model_folder import load_waveform_classifier
from bioaudio_recipes.finetune.schedule import FinetuneSchedule
from bioaudio_recipes.finetune.waveform_task import WaveformTask
from bioaudio_recipes.optimisation import OptimizerConfig
from bioaudio_recipes.pretrain.starting_waveform_model import ABOUT
from bioaudio_recipes.pretrain.waveform_data import HeardStore, WaveformCorpus, WaveformData
from bioaudio_recipes.training.engine import TrainerConfig
from tone_store import RATE, tone_store

from bioaudio_mamba import BlockConfig, SashimiConfig, WaveformLM
from bioaudio_mamba.pretrained import load_pretrained_waveform, save_pretrained

MODEL = SashimiConfig(d_model=16, n_layer=1, pooling=(4,), blocks=(BlockConfig(kind="mamba-s4", d_state=8),))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Two threads on models so small only wait for each other, long on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> WaveformStore:
    return tone_store(tmp_path_factory.mktemp("tones"), 30)


@pytest.fixture
def settings(store: WaveformStore, tmp_path: Path) -> dict[str, Any]:
    """Arguments of a tiny run."""
    return {
        "out": tmp_path / "run",
        "data": HeardStore(store=store.path),
        "model": MODEL,
        "schedule": FinetuneSchedule(epochs=1, steps_per_epoch=2, batch_size=12),
        "optimizer": OptimizerConfig(learning_rate=2e-2, lr_min=1e-3),
        "trainer": TrainerConfig(
            tokens_per_microbatch=800, accelerator="cpu", num_workers=0, log_every=1, progress=False
        ),
    }


def changed(settings: dict[str, Any], **change: Any) -> dict[str, Any]:
    return settings | change


def pretrained(folder: Path, **about: Any) -> WaveformLM:
    """A model that hears the store's codes, unless told otherwise."""
    config = replace(MODEL, n_classes=len(about.get("labels", [])))
    model = WaveformLM(config, torch.Generator().manual_seed(5))
    sound = {"quantiser": Quantiser().to_dict(), "sample_rate": RATE, "labels": []} | about
    save_pretrained(model, folder, {ABOUT: sound})
    return model


def test_planted_tones_are_told_apart(settings: dict[str, Any], store: WaveformStore) -> None:
    finetune_audio(**changed(settings, schedule=FinetuneSchedule(epochs=8, batch_size=12)))
    content = json.loads((settings["out"] / "evaluation" / "classification.json").read_text())
    assert content["classes"] == ["high", "low", "middle"]
    assert content["unit"] == "samples"
    (entry,) = content["lengths"]
    assert entry["length"] == max(clip.length for clip in store.clips)
    assert entry["windows"] == len(store.of_split("test"))
    assert entry["accuracy"] > 0.9
    folder = settings["out"] / "finetune" / f"length-{entry['length']}" / "model"
    classifier, classes, sound = load_waveform_classifier(folder)
    assert (classes, sound.sample_rate) == (("high", "low", "middle"), RATE)
    task = WaveformTask(corpus=WaveformCorpus(WaveformData(store=store.path)), length=120)
    tests = task.held_out("test", 120, 1)
    batch = collate([tests.read(i) for i in range(tests.count)])
    found = classifier(batch.tokens, batch.lengths).argmax(1)
    assert (found == batch.labels).double().mean().item() == pytest.approx(entry["accuracy"])


@pytest.mark.parametrize("memory", ["blocks", "chunks"])
def test_every_way_of_keeping_activations_trains_alike(settings: dict[str, Any], memory: Any) -> None:
    losses = []
    for name, way in (("full", "full"), ("other", memory)):
        trainer = replace(settings["trainer"], memory=way, chunk_length=25 if way == "chunks" else None)
        finetune_audio(**changed(settings, out=settings["out"] / name, trainer=trainer))
        path = settings["out"] / name / "evaluation" / "classification.json"
        losses.append(json.loads(path.read_text())["lengths"][0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_training_starts_from_the_pretrained_weights(settings: dict[str, Any], tmp_path: Path) -> None:
    model = pretrained(tmp_path / "pretrained")
    finetune_audio(**changed(settings, model=None, init_from=tmp_path / "pretrained", freeze_backbone=True))
    (folder,) = (settings["out"] / "finetune").iterdir()
    after, extra = load_pretrained_waveform(folder / "model")
    assert extra["classifier"] == {"classes": ["high", "low", "middle"], "pooling": "mean"}
    for name, parameter in model.backbone.named_parameters():
        assert torch.equal(parameter, after.backbone.get_parameter(name)), name


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"quantiser": Quantiser(law="linear").to_dict()}, "hears 8-bit linear per file at 1,000 Hz"),
        ({"sample_rate": 2 * RATE}, "hears 8-bit mu-law per file at 2,000 Hz"),
        ({"sample_rate": 2 * RATE}, "prepare-audio --sample-rate 2000"),
        (
            {"quantiser": Quantiser(bits=8, law="linear").to_dict()},
            "set --data.quantiser to what the checkpoint",
        ),
        (
            {"labels": ["high", "low"]},
            "trained with the labels high, low, and a classifier cannot be told them",
        ),
        ({"labels": ["high", "low"]}, "pretrain one with `bioaudio pretrain-audio --data.conditional false`"),
    ],
)
def test_models_of_other_codes_are_refused(
    settings: dict[str, Any], tmp_path: Path, about: dict[str, Any], message: str
) -> None:
    pretrained(tmp_path / "other", **about)
    with pytest.raises(ValueError, match=re.escape(message)):
        finetune_audio(**changed(settings, model=None, init_from=tmp_path / "other"))
    assert not settings["out"].exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": None}, "--model is missing"),
        ({"length": 0}, "--length must be 1 or more, got 0"),
        ({"optimizer": OptimizerConfig(ema_decay=0.9)}, "--optimizer.ema_decay is for pretraining"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        finetune_audio(**changed(settings, **change))
    assert not settings["out"].exists()


def test_flags_of_pretraining_alone_are_not_offered() -> None:
    offered = {action.dest for action in cli.parser_for("finetune-audio")._actions}
    assert {"data.store", "data.quantiser"} <= offered
    assert not {"data.conditional", "data.label_dropout", "data.short"} & offered


def test_store_without_labels_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tone_store(tmp_path, 5, labels=False)
    arguments = [
        "--data.store",
        str(bare.path),
        "--out",
        str(tmp_path / "run"),
        "--model",
        "mamba_speech_small",
    ]
    with pytest.raises(SystemExit, match="2"):
        cli.main(["finetune-audio", *arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert "has clips without a label, as high_0.wav" in line


def test_examples_are_whole_clips_and_depend_on_their_number_alone(store: WaveformStore) -> None:
    task = WaveformTask(corpus=WaveformCorpus(WaveformData(store=store.path)), length=120)
    draw = task.training(120, seed=3)
    count = task.examples_per_epoch
    assert count == len(store.of_split("train"))
    drawn = [draw(0, i) for i in range(count)]
    assert sorted(len(codes) for codes, _ in drawn) == sorted(
        store.clips[i].length for i in store.of_split("train")
    )
    again = task.training(120, seed=3)(0, 7)
    assert np.array_equal(again[0], drawn[7][0])
    assert [len(codes) for codes, _ in drawn] != [len(draw(1, i)[0]) for i in range(count)]
    short = task.training(40, seed=3)
    assert all(len(short(0, i)[0]) <= 40 for i in range(10))


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (cli.RECIPES / "finetune-audio").glob("*.yaml"))
)
def test_every_yaml_parses(name: str) -> None:
    parser = cli.parser_for("finetune-audio")
    arguments = ["--config", f"finetune-audio/{name}", "--data.store=x", "--out=x"]
    values = parser.instantiate(parser.parse_args(cli.with_recipe_paths("finetune-audio", arguments)))
    assert values.model.pooling == (4, 4)
