"""The kernels of the fused step compile for sm_80 and sm_90 at the sizes of the 6.1 M U-Net, without spills.

How Triton lays vectors and matrices out decides whether a matrix goes through shared memory in a step, which
would take longer than all the rest: the barriers tell.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from bioaudio_kernels.mamba_step import triton_launch
from bioaudio_kernels.mamba_step.packing import Block
from bioaudio_kernels.mamba_step.triton_launch import Source, StageMemory, step_stage_triton
from bioaudio_kernels.mamba_step.triton_packing import pack_head, pack_linear, pack_stage_triton
from machine_code import Launch, Recorder, disassemble
from torch import Tensor

KERNELS = [name for name in vars(triton_launch) if name.endswith("_kernel")]


def empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """Of the kernels that a test launches."""
    launches: list[Launch] = []
    for name in KERNELS:
        monkeypatch.setattr(triton_launch, name, Recorder(getattr(triton_launch, name), launches))
    return launches


def step(level: int, rows: int) -> None:
    """A step of a stage of the way up."""
    d, inner, rank, n = 64 << level, 128 << level, 4 << level, 16
    weights: Any = (
        empty(*shape)
        for shape in (
            (d,), (2 * inner, d), (inner, 4), (inner,), (rank + 2 * n, inner), (inner, rank), (inner,),
            (inner, n), (inner,), (d, inner),
        )
    )  # fmt: skip
    stage = pack_stage_triton([Block(*weights)] * 2, 1e-5)
    memory: StageMemory = triton_launch.stage_memory(stage, rows)
    waiting, rising = empty(rows, 4, d), empty(rows, 4, d)
    step_stage_triton(stage, memory, Source(waiting[:, 1], rising[:, 1]), empty(rows, d), memory.entered)


@pytest.mark.parametrize(("rows", "architecture"), [(1, 80), (1, 90), (1024, 90)])
def test_narrow_stage_compiles_without_spills(
    rows: int, architecture: int, launches: list[Launch], tmp_path: Path
) -> None:
    """Five vectors a block pass through shared memory, and two on their way into memory."""
    step(0, rows)
    code = disassemble(launches[0].compile(architecture), tmp_path)
    assert not code.stack
    assert code.loop["BAR"] <= 18
    assert code.loop["STS"] <= 8


@pytest.mark.parametrize(("level", "architecture"), [(1, 90), (2, 80), (2, 90)])
def test_wide_blocks_compile_without_spills(
    level: int, architecture: int, launches: list[Launch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor in the form that starts before the launch ahead of it has ended."""
    monkeypatch.setattr(triton_launch, "starts_early", lambda device: architecture >= 90)
    step(level, 1)
    for launch in (launches[0], launches[1], launches[-1]):
        code = disassemble(launch.compile(architecture), tmp_path)
        assert not code.stack
        assert code.loop["STS"] <= 10
        assert code.registers <= 128


@pytest.mark.parametrize(("level", "rows", "architecture"), [(1, 1024, 90), (2, 128, 90), (2, 1024, 80)])
def test_tiles_compile_without_spills(
    level: int, rows: int, architecture: int, launches: list[Launch], tmp_path: Path
) -> None:
    """Products on tensor cores, whose operands are copied ahead, and a scan of which several programs fit."""
    step(level, rows)
    begin, enter, scan, project = launches[:4]
    for launch in (begin, enter, scan, project):
        code = disassemble(launch.compile(architecture), tmp_path)
        assert not code.stack
        if launch is scan:
            assert code.registers <= 80
        elif launch is not begin:
            assert code.loop["LDGSTS"]
            assert code.loop["HMMA"] + code.loop["HGMMA"]


def test_head_and_projections_compile_without_spills(launches: list[Launch], tmp_path: Path) -> None:
    head = pack_head(empty(64), empty(64), empty(256, 64), empty(256), 64, 1e-5)
    triton_launch.draw_triton(head, empty(1, 64), empty(1, 16)[:, 1], 1.0, 0.99)
    triton_launch.linear_triton(
        empty(1, 512), pack_linear(empty(256, 512), empty(256), 256, 512), empty(1, 256)
    )
    for launch in launches:
        code = disassemble(launch.compile(90), tmp_path)
        assert not code.stack
        assert code.registers <= 168
