"""The fused step of Mamba stages on Triton: on a GPU with -m gpu, and on the CPU inside Triton's interpreter.

test_triton_interpreter.py says how the interpreter gets a process of its own.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from tolerances import OUTPUT_RTOL, assert_close
from torch import Tensor

pytest.importorskip("triton")

from bioaudio_kernels.causal_conv1d.reference import causal_conv1d_step_reference
from bioaudio_kernels.mamba_step import triton_config
from bioaudio_kernels.mamba_step.packing import Block
from bioaudio_kernels.mamba_step.triton_launch import (
    Source,
    draw_triton,
    head_triton,
    linear_triton,
    stage_memory,
    step_stage_triton,
)
from bioaudio_kernels.mamba_step.triton_packing import (
    PackedHead,
    pack_head,
    pack_linear,
    pack_stage_triton,
)
from bioaudio_kernels.selective_scan.reference import selective_scan_step_reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)]
SINGLE = OUTPUT_RTOL[torch.float32]
EPS = 1e-5
on_every_device = pytest.mark.parametrize("device", DEVICES)


class Case(NamedTuple):
    """Sizes of a stage, none a power of two unless said."""

    rows: int
    d_model: int = 12
    d_inner: int = 40
    d_state: int = 5
    rank: int = 3
    d_conv: int = 3
    layers: int = 2


def random_blocks(case: Case, device: str) -> list[Block]:
    generator = torch.Generator().manual_seed(case.d_model)
    d, inner, n, rank = case.d_model, case.d_inner, case.d_state, case.rank

    def normal(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator) / shape[-1] ** 0.5).to(device)

    return [
        Block(
            1 + normal(d),
            normal(2 * inner, d),
            normal(inner, case.d_conv),
            normal(inner),
            normal(rank + 2 * n, inner),
            normal(inner, rank),
            normal(inner) - 2,
            -torch.exp(normal(inner, n)),
            normal(inner),
            normal(d, inner),
        )
        for _ in range(case.layers)
    ]


def reference_block(w: Block, x: Tensor, conv: Tensor, ssm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x + block(norm(x)) and the new states, by the references of the parts."""
    rank, n = w.dt_proj.shape[1], w.A.shape[1]
    u, z = F.linear(F.rms_norm(x, w.norm.shape, w.norm, EPS), w.in_proj).chunk(2, -1)
    u, conv = causal_conv1d_step_reference(u, w.conv_weight, w.conv_bias, conv, activation="silu")
    low_rank, B, C = F.linear(u, w.x_proj).split([rank, n, n], -1)
    y, ssm = selective_scan_step_reference(
        u, F.linear(low_rank, w.dt_proj), w.A, B, C, w.D, z, w.dt_bias, ssm
    )
    return x + F.linear(y, w.out_proj), conv, ssm


@on_every_device
@pytest.mark.parametrize(
    ("form", "case", "way"),
    [
        ("narrow", Case(2), "down"),
        ("narrow", Case(5), "up"),
        ("narrow", Case(3), "centre"),
        ("narrow", Case(1, d_conv=1, d_state=16, rank=4, d_inner=32, d_model=16), "up"),
        ("wide", Case(2), "down"),
        ("wide", Case(2), "centre"),
        ("wide", Case(3), "up"),
        ("tiles", Case(19, d_model=33), "down"),
        ("tiles", Case(3), "centre"),
        ("tiles", Case(17, d_conv=1), "up"),
    ],
)
def test_stage_equals_its_blocks(
    form: str, case: Case, way: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of a stage on the way down (from tokens), up (with skips), or at the centre (residual)."""
    monkeypatch.setattr(triton_config, "NARROW", 64 if form == "narrow" else 8)
    monkeypatch.setattr(triton_config, "TILES_FROM", 1 if form == "tiles" else 1 << 20)
    # Products of matrices take 16 channels at least.
    monkeypatch.setattr(triton_config, "TILE", 2048 if form == "tiles" else 512)
    monkeypatch.setattr(triton_config, "PROGRAMS", 2)
    blocks = random_blocks(case, device)
    exact = [Block(*(part.double() for part in block)) for block in blocks]
    stage = pack_stage_triton(blocks, EPS)
    memory = stage_memory(stage, case.rows)
    D, layers, rng = stage.sizes.D, case.layers, torch.Generator().manual_seed(7)

    def normal(*shape: int) -> Tensor:
        whole = torch.zeros(*shape, D)
        whole[..., : case.d_model] = torch.randn(*shape, case.d_model, generator=rng)
        return whole.to(device)

    embeddings, classes = normal(9), normal(2)
    conv = [torch.zeros(case.rows, case.d_conv - 1, case.d_inner, device=device).double()] * layers
    ssm = [torch.zeros(case.rows, case.d_inner, case.d_state, device=device).double()] * layers
    out = torch.full((case.rows, 2, D), torch.nan, device=device)[:, 1]
    for _ in range(2):
        x, more, skips = normal(case.rows), normal(case.rows), normal(layers, case.rows)
        source = Source(x, more)
        if way == "down":
            tokens, labels = (
                torch.randint(low, high, (case.rows,), generator=rng).to(device)
                for low, high in ((0, 9), (-1, 2))
            )
            source = Source(tokens=tokens, labels=labels, embeddings=embeddings, classes=classes)
            x, more = embeddings[tokens], torch.where(labels[:, None] >= 0, classes[labels], 0.0)
        given = skips if way == "up" else None
        step_stage_triton(stage, memory, source, out, given, residual=way == "centre")
        expected = first = (x.double() + more)[:, : case.d_model]
        entered = []
        for i, block in enumerate(exact):
            entered.append(expected)
            expected, conv[i], ssm[i] = reference_block(block, expected, conv[i], ssm[i])
            if way == "up":
                expected = expected + skips[layers - 1 - i, :, : case.d_model]
        if way == "centre":
            expected = expected + first
        assert_close(out[:, : case.d_model], expected, SINGLE, "result")
        assert_close(memory.entered[:, :, : case.d_model], torch.stack(entered), SINGLE, "entered")
        assert not out[:, case.d_model :].any(), "what fills up stays zero"
    assert_close(memory.conv[..., : case.d_inner], torch.stack(conv), SINGLE, "conv")
    states = memory.ssm.transpose(2, 3).flatten(3)[:, :, : case.d_inner, : case.d_state]
    assert_close(states, torch.stack(ssm), SINGLE, "ssm")


@on_every_device
@pytest.mark.parametrize(("rows", "tiles_from"), [(1, 1 << 20), (3, 1 << 20), (19, 1)])
def test_linear_layer(rows: int, tiles_from: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_config, "TILES_FROM", tiles_from)
    monkeypatch.setattr(triton_config, "PROGRAMS", 2)
    weight, bias, x = (
        torch.randn(40, 24, device=device),
        torch.randn(40, device=device),
        torch.randn(rows, 24),
    )
    y, padded = torch.full((rows, 64), torch.nan, device=device), F.pad(x, (0, 8)).to(device)
    linear_triton(padded, pack_linear(weight, bias, 64, 32), y)
    assert_close(y[:, :40], F.linear(x.to(device).double(), weight.double(), bias.double()), SINGLE)
    assert not y[:, 40:].any()


def head(device: str) -> tuple[PackedHead, Tensor, Tensor]:
    """A head of 11 codes, one impossible; vectors that enter it; exact logits."""
    rng = torch.Generator().manual_seed(3)
    norm, weight, bias, x = (
        torch.randn(s, generator=rng).to(device) for s in ((2, 12), (11, 12), (11,), (6, 12))
    )
    bias[4] = -torch.inf
    packed = pack_head(norm[0], norm[1], weight, bias, 16, EPS)
    normed = F.layer_norm(x.double(), (12,), norm[0].double(), norm[1].double(), EPS)
    return packed, F.pad(x, (0, 4)), F.linear(normed, weight.double(), bias.double())


@on_every_device
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_head_draws_where_the_cumulated_probability_passes(temperature: float, device: str) -> None:
    packed, x, expected = head(device)
    possible = torch.arange(11) != 4
    logits = head_triton(packed, x)[:, :11]
    assert_close(logits[:, possible], expected[:, possible], SINGLE, "logits")
    p = torch.softmax(expected / (temperature or 1), -1)
    log_p = torch.log_softmax(expected, -1)
    for number in (0.0, 0.3, 0.8):
        codes, found = draw_triton(
            packed, x, torch.full((6, 2), number, device=device)[:, 0], temperature, 1.0
        )
        passed = (p.cumsum(-1) <= number).sum(-1)
        assert torch.equal(codes, passed if temperature else p.argmax(-1))
        assert_close(found, log_p.gather(1, codes[:, None])[:, 0], SINGLE, "log-probability")


@on_every_device
def test_the_largest_number_draws_a_possible_code(device: str) -> None:
    """Even a number that lies above all that sums may round to."""
    packed, x, _ = head(device)
    packed.linear.bias[9:] = -torch.inf
    codes, _ = draw_triton(packed, x, torch.full((6,), 2.0, device=device), 1.0, 2.0)
    assert codes.tolist() == [8] * 6
