"""Two processes train as one does, and resume as one does."""

from __future__ import annotations

import csv
import socket
from pathlib import Path

import pytest
import torch
from bioaudio_recipes.run_folder import RunFolder
from pretrain_runs import TIMINGS, arguments, make_store, run, run_on_two_ranks
from tolerances import GRADIENT_RTOL


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def rows(out: Path) -> list[dict[str, float]]:
    with RunFolder(out).metrics.open(newline="") as file:
        kept = [{k: v for k, v in row.items() if k not in TIMINGS} for row in csv.DictReader(file)]
    return [{name: float(value) for name, value in row.items() if value} for row in kept]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("genome"), letters="ACGTN")


@pytest.fixture(scope="module")
def one(store: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    out = tmp_path_factory.mktemp("runs") / "one"
    assert run(arguments(store, out)) == 0
    return rows(out)


def assert_same_training(two: list[dict[str, float]], one: list[dict[str, float]]) -> None:
    assert len(one) == len(two)
    for single, both in zip(one, two, strict=True):
        assert both == pytest.approx(single, rel=GRADIENT_RTOL[torch.float32])


def test_two_ranks_train_as_one(store: Path, one: list[dict[str, float]], tmp_path: Path) -> None:
    halved = {"tokens_per_microbatch": 32}
    assert run_on_two_ranks(arguments(store, tmp_path, max_minutes=1e-9, **halved), free_port()) == [0, 0]
    assert len(rows(tmp_path)) < 5
    assert run_on_two_ranks(arguments(store, tmp_path, **halved), free_port()) == [0, 0]
    assert_same_training(rows(tmp_path), one)


def test_two_ranks_train_in_chunks_as_one_does_in_full(
    store: Path, one: list[dict[str, float]], tmp_path: Path
) -> None:
    settings = {"tokens_per_microbatch": 32, "memory": "chunks", "chunk_length": 7}
    assert run_on_two_ranks(arguments(store, tmp_path, **settings), free_port()) == [0, 0]
    assert_same_training(rows(tmp_path), one)
