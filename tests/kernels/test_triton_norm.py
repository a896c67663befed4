"""Residual sum and its norm on Triton: on a GPU with -m gpu, or interpreted (see test_triton_scan.py)."""

from __future__ import annotations

import os

import pytest
import torch
from norm_cases import CASES, NormCase

pytest.importorskip("triton")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)]

on_every_device = pytest.mark.parametrize("device", DEVICES)


@on_every_device
@pytest.mark.parametrize(
    "case", [*CASES, NormCase(shape=(3, 1500)), NormCase(shape=(3, 1500), bias=True), NormCase(shape=(1, 1))]
)
def test_outputs_and_gradients_match_the_reference(case: NormCase, device: str) -> None:
    from bioaudio_kernels.add_norm.triton_op import add_norm_triton

    case.check(add_norm_triton, device)


@on_every_device
@pytest.mark.parametrize("bias", [False, True])
def test_gradients_of_weights_add_up_over_programs(
    bias: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that fill several programs of several steps, the last of them not whole."""
    from bioaudio_kernels.add_norm import triton_op

    monkeypatch.setattr(triton_op, "PROGRAMS", 3)
    NormCase(shape=(85, 128), bias=bias).check(triton_op.add_norm_triton, device)


@on_every_device
def test_strides_do_not_matter(device: str) -> None:
    from bioaudio_kernels.add_norm.triton_op import add_norm_triton

    y, residual, weight, _ = NormCase(shape=(4, 6, 16)).tensors(device)
    assert y is not None
    assert residual is not None
    assert weight is not None
    expected = add_norm_triton(y, residual, weight, None, 1e-5, torch.float32)
    turned = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in (y, residual)]
    for ours, theirs in zip(
        add_norm_triton(turned[0], turned[1], weight, None, 1e-5, torch.float32), expected, strict=True
    ):
        assert torch.equal(ours, theirs)
