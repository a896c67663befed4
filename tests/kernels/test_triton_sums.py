"""Sums over rows: on a GPU with -m gpu, and inside the interpreter (test_triton_interpreter.py)."""

from __future__ import annotations

import os

import pytest
import torch
from tolerances import OUTPUT_RTOL, assert_close

pytest.importorskip("triton")

from bioaudio_kernels.triton_sums import sum_over_rows

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(1, 5), (3, 2, 33), (300, 5, 40), (1025, 7), (4, 0), (700, 64)], ids=str)
def test_sums_over_rows(shape: tuple[int, ...], device: str, rng: torch.Generator) -> None:
    x = torch.randn(shape, generator=rng).to(device)
    assert_close(sum_over_rows(x), x.double().sum(0), OUTPUT_RTOL[torch.float32])
    assert torch.equal(sum_over_rows(x), sum_over_rows(x)), "the same bits twice"
