"""A pretraining that is stopped anywhere and resumed ends as if nothing had happened, to the byte."""

from __future__ import annotations

import csv
import os
import random
import signal
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bioaudio_recipes.commands.pretrain import pretrain
from bioaudio_recipes.pretrain.language_model import LanguageModel
from bioaudio_recipes.pretrain.validation import Validation
from bioaudio_recipes.run_folder import RunFolder
from bioaudio_recipes.training.roll_call import RollCall
from bioaudio_recipes.training.stopping import SaveAndStop
from lightning.pytorch import LightningModule, Trainer
from pretrain_runs import ACCUMULATION, STEPS, TIMINGS, Interruption, arguments, make_store, run

LAST = "step-00000013.ckpt"
BORDER = STEPS[0] * ACCUMULATION


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("genome"))


@pytest.fixture(scope="module")
def uninterrupted(store: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("runs") / "uninterrupted"
    assert run(arguments(store, out)) == 0
    return RunFolder(out)


def rows(folder: RunFolder) -> list[dict[str, str]]:
    with folder.metrics.open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMINGS} for row in csv.DictReader(file)]


def assert_same(actual: Any, expected: Any, name: str = "checkpoint") -> None:
    if isinstance(expected, torch.Tensor):
        assert torch.equal(actual, expected), name
    elif isinstance(expected, dict):
        assert actual.keys() == expected.keys(), name
        for key in expected:
            assert_same(actual[key], expected[key], f"{name}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected), name
        for i, (one, other) in enumerate(zip(actual, expected, strict=True)):
            assert_same(one, other, f"{name}[{i}]")
    else:
        assert actual == expected, name


def assert_same_run(actual: RunFolder, expected: RunFolder) -> None:
    """Weights, averaged weights, optimizer, unfinished sums and metrics are bit for bit the same."""
    weights = "model.safetensors"
    assert (actual.model / weights).read_bytes() == (expected.model / weights).read_bytes()
    assert rows(actual) == rows(expected)
    ours, theirs = (torch.load(folder.checkpoints / LAST, weights_only=True) for folder in (actual, expected))
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "bioaudio_interval", "global_step"):
        assert_same(ours[key], theirs[key], key)


def test_killed_run_resumes_to_the_same_bytes(store: Path, uninterrupted: RunFolder, tmp_path: Path) -> None:
    draw = random.Random(0)
    inside_first, inside_second = draw.randrange(7, BORDER), draw.randrange(BORDER + 5, 25)
    for microbatch, workers in ((inside_first, 2), (BORDER, 0), (inside_second, 2)):
        values = arguments(store, tmp_path / "run", num_workers=workers)
        assert run(values, Interruption(microbatch, signal.SIGKILL)) == -signal.SIGKILL
    assert run(arguments(store, tmp_path / "run", num_workers=2)) == 0
    assert_same_run(RunFolder(tmp_path / "run"), uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_wait_for_a_whole_step(number: signal.Signals) -> None:
    saved: list[int] = []
    log: Any = SimpleNamespace(flush=lambda: None)
    module: Any = None
    trainer: Any = SimpleNamespace(global_step=3, should_stop=False)
    folder: Any = SimpleNamespace(save=lambda _, step: saved.append(step))
    save = SaveAndStop(folder, log, RollCall(timedelta()), total_steps=9, every=100)
    before = signal.getsignal(number)
    save.on_train_start(trainer, module)
    save.on_step_end(trainer, module, 4)
    os.kill(os.getpid(), number)
    assert (saved, trainer.should_stop) == ([], False)
    save.on_step_end(trainer, module, 5)
    assert (saved, trainer.should_stop) == ([5], True)
    save.on_train_end(trainer, module)
    assert signal.getsignal(number) == before
    with pytest.raises(SystemExit) as exit_:
        save.leave_if_told_to()
    assert exit_.value.code == 128 + number


def test_signal_during_the_first_validation_waits_too(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = Validation._validate

    def interrupted(self: Validation, trainer: Trainer, module: LightningModule, step: int) -> None:
        if step == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        validate(self, trainer, module, step)

    monkeypatch.setattr(Validation, "_validate", interrupted)
    with pytest.raises(SystemExit):
        pretrain(**arguments(store, tmp_path))
    assert [path.name for path in RunFolder(tmp_path).checkpoints.iterdir()] == ["step-00000001.ckpt"]


def test_ctrl_c_that_nobody_took_is_a_keyboard_interrupt(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the second one is; Lightning alone would leave with an exit code of its own."""

    def interrupted(self: LanguageModel, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(LanguageModel, "training_step", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        pretrain(**arguments(store, tmp_path))
    signal.signal(signal.SIGINT, before)  # which Lightning ignores from then on


def test_run_told_to_stop_saves_first_and_resumes(
    store: Path, uninterrupted: RunFolder, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    middle_of_step_4 = 4 * ACCUMULATION
    told = Interruption(middle_of_step_4, signal.SIGTERM)
    assert run(arguments(store, folder.root, checkpoint_every=100), told) == 128 + signal.SIGTERM
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-00000005.ckpt"]
    assert run(arguments(store, folder.root, max_minutes=1e-9)) == 0
    assert max(path.name for path in folder.checkpoints.iterdir()) == "step-00000006.ckpt"
    newest = folder.checkpoints / "step-00000006.ckpt"
    newest.write_bytes(newest.read_bytes()[:1000])
    assert run(arguments(store, folder.root)) == 0
    assert_same_run(folder, uninterrupted)
