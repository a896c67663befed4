"""Two processes train as one does, and resume as one does, on another launcher too."""

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


def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    store = make_store(tmp_path, letters="ACGTN")
    assert run(arguments(store, tmp_path / "one")) == 0
    halved = {"tokens_per_microbatch": 32}
    assert run_on_two_ranks(arguments(store, tmp_path / "two", max_minutes=1e-9, **halved), free_port()) == [
        0,
        0,
    ]
    assert len(rows(tmp_path / "two")) < 5
    on_nodes = arguments(store, tmp_path / "two", **halved)
    assert run_on_two_ranks(on_nodes, free_port(), launcher="slurm") == [0, 0]
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(one) == len(two)
    for single, both in zip(one, two, strict=True):
        assert both == pytest.approx(single, rel=GRADIENT_RTOL[torch.float32])
