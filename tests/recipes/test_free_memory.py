"""Free memory: of the machine, or what a container's control groups leave, shared by a run's processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bioaudio_recipes.training import memory
from bioaudio_recipes.training.engine import TrainerConfig
from bioaudio_recipes.training.free_memory import free_in_container

from bioaudio_mamba import MambaConfig

V2, V1 = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")


def make_group(folder: Path, names: tuple[str, str], limit: str) -> None:
    """A control group of which 100 bytes are in use."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, "100"), strict=True):
        (folder / name).write_text(f"{value}\n")


@pytest.mark.parametrize(
    ("groups", "own", "free"),
    [
        ({"job": "1000", "job/step": "max"}, "0::/job/step", 900),
        ({"": "500", "job": "1000"}, "0::/job", 400),
        ({"other": "500"}, "0::/job", 2**63),
        ({"": "500"}, "0::/docker/3f", 400),
        ({"memory/job": "700"}, "5:cpu,cpuacct:/\n4:memory:/job\n0::/", 600),
        ({"memory": "50"}, "4:hugetlb,memory:/docker/3f", 0),
    ],
    ids=["around the group", "the least", "not ours", "shown as the root", "version 1", "v1 as the root"],
)
def test_every_group_around_the_process_limits_it(
    groups: dict[str, str], own: str, free: int, tmp_path: Path
) -> None:
    for name, limit in groups.items():
        make_group(tmp_path / name, V1 if name.startswith("memory") else V2, limit)
    (tmp_path / "own").write_text(f"{own}\n")
    assert free_in_container(tmp_path, tmp_path / "own") == free


def test_processes_of_a_host_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _: 10**9)
    model, cpu = MambaConfig(d_model=8, n_layer=1), torch.device("cpu")
    alone, both = (TrainerConfig(devices=count).planner(model, 0, 1)._budget(cpu) for count in (1, 2))
    assert alone == 2 * both == int(memory.SHARE_OF_CPU * 10**9)
