"""Two processes train as one does, and resume as one does: on windows of their own, or on all together.

On another launcher too; and one that dies or hangs is named.
"""

from __future__ import annotations

import csv
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from bioaudio_recipes.optimisation import OptimizerConfig
from bioaudio_recipes.pretrain import language_model
from bioaudio_recipes.pretrain.language_model import LanguageModel
from bioaudio_recipes.pretrain.objective import NextBase
from bioaudio_recipes.run_folder import RunFolder
from bioaudio_recipes.training import roll_call
from bioaudio_recipes.training.engine import TrainerConfig, process_rank
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from pretrain_runs import TIMINGS, Interruption, arguments, make_store, run, run_on_two_ranks
from tolerances import GRADIENT_RTOL
from torch.utils.data import DataLoader

from bioaudio_mamba import CausalLM, MambaConfig

HALVED = {"tokens_per_microbatch": 32}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("genome"), letters="ACGTN")


@pytest.fixture(scope="module")
def of_one_process(store: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    out = tmp_path_factory.mktemp("one")
    assert run(arguments(store, out)) == 0
    return rows(out)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def rows(out: Path) -> list[dict[str, float]]:
    with RunFolder(out).metrics.open(newline="") as file:
        kept = [{k: v for k, v in row.items() if k not in TIMINGS} for row in csv.DictReader(file)]
    return [{name: float(value) for name, value in row.items() if value} for row in kept]


def assert_same_rows(actual: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    assert len(actual) == len(expected)
    for both, single in zip(actual, expected, strict=True):
        assert both == pytest.approx(single, rel=GRADIENT_RTOL[torch.float32])


def test_two_ranks_train_as_one(store: Path, tmp_path: Path, of_one_process: list[dict[str, float]]) -> None:
    values = arguments(store, tmp_path, **HALVED)
    assert run_on_two_ranks(arguments(store, tmp_path, max_minutes=1e-9, **HALVED), free_port()) == [0, 0]
    assert len(rows(tmp_path)) < 5
    assert run_on_two_ranks(values, free_port(), launcher="slurm") == [0, 0]
    assert_same_rows(rows(tmp_path), of_one_process)


def test_two_ranks_on_one_sequence_train_as_one(
    store: Path, tmp_path: Path, of_one_process: list[dict[str, float]]
) -> None:
    assert run_on_two_ranks(arguments(store, tmp_path, **HALVED), free_port(), context=2) == [0, 0]
    assert_same_rows(rows(tmp_path), of_one_process)


def test_two_ranks_train_in_chunks_as_one_does_in_full(
    store: Path, tmp_path: Path, of_one_process: list[dict[str, float]]
) -> None:
    values = arguments(store, tmp_path, **HALVED, memory="chunks", chunk_length=7)
    assert run_on_two_ranks(values, free_port()) == [0, 0]
    assert_same_rows(rows(tmp_path), of_one_process)


def test_two_ranks_share_every_chunk_of_a_sequence(
    store: Path, tmp_path: Path, of_one_process: list[dict[str, float]]
) -> None:
    values = arguments(store, tmp_path, **HALVED, memory="chunks", chunk_length=5)
    assert run_on_two_ranks(values, free_port(), context=2) == [0, 0]
    assert_same_rows(rows(tmp_path), of_one_process)


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_dies_or_hangs_is_named(store: Path, tmp_path: Path, way: signal.Signals) -> None:
    values = arguments(store, tmp_path, **HALVED)
    codes = run_on_two_ranks(values, free_port(), Interruption(3, way), context=2, timeout_seconds=3)
    assert codes[0] == 1
    error = (tmp_path / "error 0").read_text()
    assert "rank 1 of 2 no longer answers within 3 s: died, or hangs" in error


def test_a_rank_that_fails_keeps_its_error_and_the_other_names_it(store: Path, tmp_path: Path) -> None:
    own = RuntimeError("of rank 1 alone\nmore")
    assert run_on_two_ranks(arguments(store, tmp_path, **HALVED), free_port(), Interruption(3, own)) == [1, 1]
    assert (tmp_path / "error 1").read_text() == repr(own)
    assert (
        "LostRank('rank 1 of 2 failed: RuntimeError: of rank 1 alone')" in (tmp_path / "error 0").read_text()
    )


def test_a_rank_that_is_told_to_stop_takes_the_other_along(store: Path, tmp_path: Path) -> None:
    values = arguments(store, tmp_path, **HALVED, checkpoint_every=100)
    assert run_on_two_ranks(values, free_port(), Interruption(8, signal.SIGTERM)) == [0, 0]
    assert [path.name for path in RunFolder(tmp_path).checkpoints.iterdir()] == ["step-00000005.ckpt"]


def test_a_roll_ends_once_all_have_answered_or_one_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three ranks, each a thread."""
    here, store = threading.local(), dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    monkeypatch.setattr(dist, "get_rank", lambda: here.rank)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    monkeypatch.setattr(roll_call, "_get_default_store", lambda: store)

    def call(number: int, seconds: float, answers: dict[int, str]) -> list[list[str | None]]:
        def answer(rank: int) -> list[str | None]:
            here.rank = rank
            return roll_call.call_roll(number, answers[rank], timedelta(seconds=seconds))

        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(answer, answers))

    for number in (1, 2, 3):
        assert call(number, 60, {0: "no", 1: "yes", 2: "no"}) == [["no", "yes", "no"]] * 3
    assert store.num_keys() == 5  # of the last roll alone
    assert call(4, 0.01, {2: "no", 0: "no"}) == [["no", None, "no"]] * 2
    assert call(5, 60, {2: "failed: ", 0: "no"})[1] == ["no", None, "failed: "]


@pytest.mark.parametrize(
    ("launcher", "rank"),
    [
        ({}, 0),
        ({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}, 3),
        ({"WORLD_SIZE": "4", "NODE_RANK": "1", "LOCAL_RANK": "1"}, 3),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "2"}, 2),
    ],
    ids=["alone", "torchrun", "Lightning", "srun"],
)
def test_rank_is_known_from_every_launcher(
    launcher: dict[str, str], rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    assert process_rank(TrainerConfig(devices=2, num_nodes=2)) == rank


class OnOneOfTheGpus(SingleDeviceStrategy):
    """Lightning's way to a GPU, as far as it goes without one."""

    def setup_environment(self) -> None:
        """Nothing to be found."""


def test_the_mesh_is_made_for_the_device_that_the_module_goes_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning moves the module to it later on."""

    def make(context: int, device: torch.device, timeout: timedelta) -> None:
        raise InterruptedError(f"{context} on {device}")

    monkeypatch.setattr(language_model, "make_context_group", make)
    model = CausalLM(MambaConfig(d_model=8, n_layer=1))
    sizes: dict[str, Any] = {"total_steps": 1, "tokens_per_step": 1, "tokens_per_microbatch": 1}
    module = LanguageModel(model, OptimizerConfig(), NextBase(), context=2, **sizes)
    strategy = OnOneOfTheGpus(torch.device("cuda", 1))
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", strategy=strategy, max_steps=1, **quiet)
    with pytest.raises(InterruptedError, match="2 on cuda:1"):
        trainer.fit(module, DataLoader([torch.zeros(1)]))  # pyright: ignore[reportArgumentType]


def test_another_number_of_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"2 processes were started, but --trainer.devices 1 times"):
        process_rank(TrainerConfig())


def test_devices_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--trainer.context 3 must divide the 4 devices"):
        TrainerConfig(devices=2, num_nodes=2, context=3)
    with pytest.raises(ValueError, match=r"--trainer.context needs --trainer.strategy ddp, got fsdp"):
        TrainerConfig(devices=2, context=2, strategy="fsdp")
