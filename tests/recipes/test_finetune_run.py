"""Whole runs of `bioaudio finetune`: they learn planted tasks, resume to the byte, refuse what is wrong."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bioaudio_data.vocabulary import DNA
from bioaudio_recipes import cli
from bioaudio_recipes.commands.finetune import finetune
from bioaudio_recipes.finetune.genomes import GenomeSplits
from bioaudio_recipes.finetune.model_folder import load_classifier
from bioaudio_recipes.finetune.schedule import FinetuneSchedule, WarmupStage
from bioaudio_recipes.finetune.validation import EvaluationConfig
from bioaudio_recipes.optimisation import OptimizerConfig
from bioaudio_recipes.training.engine import TrainerConfig

from bioaudio_mamba import CausalLM, MambaConfig
from bioaudio_mamba.pretrained import load_pretrained, save_pretrained

MODEL = MambaConfig(d_model=8, n_layer=1, d_state=4)
TIMES = ("train/tokens_per_second", "train/peak_memory_gb")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Two threads on models so small only wait for each other, long on a busy machine."""
    torch.set_num_threads(1)


def random_dna(rng: np.random.Generator, length: int, gc: float) -> bytes:
    weights = [(1 - gc) / 2, gc / 2, gc / 2, (1 - gc) / 2]
    return np.frombuffer(b"ACGT", np.uint8)[rng.choice(4, length, p=weights)].tobytes()


@pytest.fixture(scope="module")
def genomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two classes that differ in GC content: 20 % and 80 %."""
    folder, rng = tmp_path_factory.mktemp("genomes"), np.random.default_rng(0)
    paths = {"low": folder / "low.fa", "high": folder / "high.fa"}
    for path, gc in zip(paths.values(), (0.2, 0.8), strict=True):
        path.write_bytes(
            b">chr1\n" + random_dna(rng, 8000, gc) + b"\n>chr2\n" + random_dna(rng, 4000, gc) + b"\n"
        )
    return paths


@pytest.fixture
def settings(genomes: dict[str, Path], tmp_path: Path) -> dict[str, Any]:
    """Arguments of a tiny run in two stages."""
    return {
        "out": tmp_path / "run",
        "classes": genomes,
        "length": 48,
        "model": MODEL,
        "splits": GenomeSplits(guard=50),
        "schedule": FinetuneSchedule(
            epochs=3, steps_per_epoch=2, batch_size=8, warmup=[WarmupStage(length=16)]
        ),
        "optimizer": OptimizerConfig(learning_rate=1e-2, lr_min=1e-3, warmup=0.2),
        "evaluation": EvaluationConfig(windows=8, valid_windows=2),
        "trainer": TrainerConfig(
            tokens_per_microbatch=200, accelerator="cpu", num_workers=0, log_every=4, progress=False
        ),
    }


def changed(settings: dict[str, Any], **change: Any) -> dict[str, Any]:
    return settings | change


def results(out: Path) -> dict[str, Any]:
    return json.loads((out / "evaluation" / "classification.json").read_text())


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "finetune" / "length-48" / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def weights(out: Path) -> list[bytes]:
    folder = out / "finetune" / "length-48" / "model"
    return [(folder / name).read_bytes() for name in ("model.safetensors", "classifier.safetensors")]


def pretrained(folder: Path, vocabulary: dict[str, Any] | None = None) -> CausalLM:
    model = CausalLM(MODEL, torch.Generator().manual_seed(5))
    save_pretrained(model, folder, {"vocabulary": vocabulary or DNA.to_dict()})
    return model


def test_planted_classes_are_told_apart(settings: dict[str, Any], genomes: dict[str, Path]) -> None:
    settings |= {
        "schedule": FinetuneSchedule(epochs=3, steps_per_epoch=10, batch_size=16),
        "evaluation": EvaluationConfig(lengths=[32, 48], windows=40, both_strands=True),
    }
    message = finetune(**settings)
    content = results(settings["out"])
    assert content["classes"] == list(genomes)
    assert [entry["length"] for entry in content["lengths"]] == [32, 48]
    trained = content["lengths"][1]
    assert trained["accuracy"] > 0.95
    assert trained["windows"] == 80
    assert np.sum(trained["confusion"]) == 80
    assert trained["recall"]["low"] == trained["confusion"][0][0] / 40
    assert trained["accuracy_95"][0] < trained["accuracy"] <= trained["accuracy_95"][1]
    assert f"{trained['accuracy']:.1%}" in message


def test_run_stopped_after_every_step_ends_as_the_uninterrupted_one(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    finetune(**settings)
    whole = settings["out"]
    parts = tmp_path / "parts"
    hurried = {"tokens_per_microbatch": 200, "accelerator": "cpu", "num_workers": 0, "log_every": 4}
    stopping = TrainerConfig(**hurried, progress=False, max_minutes=1e-9)
    for step in range(1, 7):
        message = finetune(**changed(settings, out=parts, trainer=stopping))
        assert ("time is up after" in message) == (step < 6)
    assert weights(parts) == weights(whole)
    assert rows(parts) == rows(whole)
    ours, theirs = results(parts)["lengths"], results(whole)["lengths"]
    assert ours == theirs
    assert "time is up" not in finetune(**changed(settings, out=parts))
    assert results(parts)["lengths"] == theirs


def test_frozen_backbone_keeps_every_bit(settings: dict[str, Any], tmp_path: Path) -> None:
    model = pretrained(tmp_path / "pretrained")
    finetune(**changed(settings, model=None, init_from=tmp_path / "pretrained", freeze_backbone=True))
    folder = settings["out"] / "finetune" / "length-48" / "model"
    after, _ = load_pretrained(folder)
    for name, parameter in model.backbone.named_parameters():
        assert torch.equal(parameter, after.backbone.get_parameter(name)), name
    classifier, classes = load_classifier(folder)
    assert classes == ("low", "high")
    assert classifier.head.weight.abs().sum() > 0


def test_training_starts_from_the_pretrained_weights(settings: dict[str, Any], tmp_path: Path) -> None:
    model = pretrained(tmp_path / "pretrained")
    still = OptimizerConfig(learning_rate=1e-12, lr_min=0.0)
    finetune(**changed(settings, model=None, init_from=tmp_path / "pretrained", optimizer=still))
    after, extra = load_pretrained(settings["out"] / "finetune" / "length-48" / "model")
    assert extra["classifier"] == {"classes": ["low", "high"], "pooling": "last"}
    for name, parameter in model.backbone.named_parameters():
        torch.testing.assert_close(after.backbone.get_parameter(name), parameter, rtol=0, atol=1e-9)


def write_csv(path: Path, count: int = 60) -> Path:
    """Sequences of 20 to 40 bases, labelled by their GC content."""
    rng = np.random.default_rng(1)
    lines = ["sequence,label"]
    for i in range(count):
        dna = random_dna(rng, int(rng.integers(20, 41)), (0.2, 0.8)[i % 2]).decode()
        lines.append(f"{dna},{('low', 'high')[i % 2]}")
    path.write_text("\n".join(lines) + "\n")
    return path


SMALL = [
    *("--model.d_model", "8", "--model.n_layer", "1", "--trainer.accelerator", "cpu"),
    *("--trainer.num_workers", "0", "--trainer.progress", "false", "--schedule.batch_size", "8"),
]


def test_own_sequences_through_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, out = write_csv(tmp_path / "task.csv"), tmp_path / "run"
    flags = ["--schedule.epochs", "8", "--optimizer.learning_rate", "0.02", "--pooling", "mean"]
    cli.main(["finetune", "--out", str(out), "--sequences", str(task), *SMALL, *flags])
    (entry,) = results(out)["lengths"]
    assert entry["windows"] == 12
    assert entry["accuracy"] > 0.9
    assert "chance 50.0%" in capsys.readouterr().out


def test_classes_by_flag_and_config_again(
    genomes: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    classes = [argument for name, path in genomes.items() for argument in (f"--classes.{name}", str(path))]
    steps = ["--schedule.epochs", "1", "--schedule.steps_per_epoch", "1", "--splits.guard", "50"]
    cli.main(["finetune", "--out", str(out), "--length", "32", *classes, *SMALL, *steps])
    config = out / "finetune" / "length-32" / "config.yaml"
    cli.main(["finetune", "--config", str(config), "--length", "64"])
    assert [entry["length"] for entry in results(out)["lengths"]] == [32, 64]
    assert len(list((out / "finetune" / "genomes").iterdir())) == 2
    capsys.readouterr()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": {}}, "give either --classes.NAME PATH for each genome, or --sequences"),
        ({"length": None}, "--length is missing"),
        ({"length": 7000}, "class 'low' has no train sequence of 7000 bases: "),
        ({"length": 760}, "class 'low' has no valid sequence"),
        ({"model": None}, "--model is missing"),
        ({"splits": GenomeSplits(guard=50, contigs="chr7")}, "class 'low': no contig"),
        ({"optimizer": OptimizerConfig(ema_decay=0.9)}, "--optimizer.ema_decay is for pretraining"),
        ({"seed": -1}, "--seed must be 0 or more, got -1"),
        ({"trainer": TrainerConfig(devices=2)}, "--trainer.devices must be 1"),
    ],
)
def test_bad_settings_are_refused_before_a_run_begins(
    settings: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        finetune(**changed(settings, **change))
    assert "\n" not in str(caught.value)
    assert not list(settings["out"].glob("finetune/length-*"))
    assert not (settings["out"] / "environment.json").exists()


@pytest.mark.parametrize(
    ("path_of", "message"),
    [
        (lambda good, folder: {"low": good["low"]}, "at least two classes, got low"),
        (lambda good, folder: good | {"low": folder / "gone.fa"}, "--classes.low: "),
        (
            lambda good, folder: good | {"low": folder},
            "is neither a genome store nor a folder of",
        ),
    ],
)
def test_bad_genomes_are_refused(
    settings: dict[str, Any],
    genomes: dict[str, Path],
    tmp_path: Path,
    path_of: Callable[[dict[str, Path], Path], dict[str, Path]],
    message: str,
) -> None:
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        finetune(**changed(settings, classes=path_of(genomes, empty)))
    assert message in str(caught.value)
    assert not settings["out"].exists()


def test_other_vocabulary_and_other_settings_are_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    pretrained(tmp_path / "alien", {"name": "protein", "fingerprint": "0"})
    with pytest.raises(ValueError, match="has the vocabulary protein"):
        finetune(**changed(settings, model=None, init_from=tmp_path / "alien"))
    finetune(**settings)
    with pytest.raises(ValueError, match=r"cannot resume .*seed was 0, now it is 1"):
        finetune(**changed(settings, seed=1))


def test_bad_csv_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = write_csv(tmp_path / "task.csv")
    task.write_text(task.read_text() + "ACGX,low\n")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["finetune", "--out", str(tmp_path / "run"), "--sequences", str(task), *SMALL])
    (line,) = capsys.readouterr().err.splitlines()
    assert "task.csv, line 62: unknown letter 'X' at position 4" in line
    assert not (tmp_path / "run").exists()
