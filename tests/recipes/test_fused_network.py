"""Sampling by the fused step: on a GPU with -m gpu, and on the CPU inside Triton's interpreter.

tests/kernels/test_triton_interpreter.py gives the interpreter a process of its own.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from bioaudio_recipes.generation.cycle import Place, Recorded, stepwise
from bioaudio_recipes.generation.drawing import ClipNumbers, Drawing
from bioaudio_recipes.generation.sampler import Sampler
from tolerances import OUTPUT_RTOL, assert_close

from bioaudio_mamba import BlockConfig, WaveformLM, audio_presets
from bioaudio_mamba.sashimi import SashimiConfig

pytest.importorskip("triton")

from bioaudio_kernels.mamba_step import triton_config
from bioaudio_recipes.generation.fused_network import FusedNetwork

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)]
on_every_device = pytest.mark.parametrize("device", DEVICES)
TINY = SashimiConfig(
    d_model=12,
    n_layer=1,
    pooling=(2, 2),
    n_classes=3,
    vocab_size=40,
    blocks=(BlockConfig(dt_rank=3, d_state=5),),
)


def network(config: SashimiConfig, device: str) -> WaveformLM:
    model = WaveformLM(config, torch.Generator().manual_seed(0)).requires_grad_(False)
    return model.to(device)


@pytest.fixture
def _tiny_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Level 0 of `TINY` is narrow, level 1 wide, and level 2 takes tiles of three sequences."""
    monkeypatch.setattr(triton_config, "NARROW", 16)
    monkeypatch.setattr(triton_config, "TILES_FROM", 3 * 128)
    monkeypatch.setattr(triton_config, "TILE", 4096)
    monkeypatch.setattr(triton_config, "PROGRAMS", 2)


@pytest.mark.usefixtures("_tiny_programs")
@on_every_device
@pytest.mark.parametrize(("phase", "pooling"), [(3, (2, 2)), (2, (3,)), (0, ())])
def test_fused_step_equals_the_networks(phase: int, pooling: tuple[int, ...], device: str) -> None:
    """Logits from any phase on, and the state at the end."""
    model, rng = network(replace(TINY, pooling=pooling), device), torch.Generator().manual_seed(1)
    labels = torch.tensor([0, 2, -1], device=device)
    tokens = torch.randint(40, (9, 3), generator=rng).to(device)
    state: Any = model.initial_state(3)
    for token in tokens[:phase]:
        _, state = model.step(token, state, labels=labels)
    fused = FusedNetwork(model)
    here = fused.state(state)
    for token in tokens[phase : phase + 5]:
        expected, state = model.step(token, state, labels=labels)
        hidden, here = fused.step(token, here, labels=labels)
        assert_close(fused.logits(hidden), expected, OUTPUT_RTOL[torch.float32], "logits")
    wanted = fused.state(state).level
    if not pooling:
        assert_close(here.level.ssm, wanted.ssm, OUTPUT_RTOL[torch.float32], "ssm")
        return
    found = fused.settle(here).level
    assert found.phase == wanted.phase
    assert_close(found.rising, wanted.rising, OUTPUT_RTOL[torch.float32], "rising")
    for name in ("down", "up"):
        for part in ("conv", "ssm"):
            one, other = (getattr(getattr(level, name), part) for level in (found, wanted))
            assert_close(one, other, OUTPUT_RTOL[torch.float32], f"{part} of {name}")


@pytest.mark.usefixtures("_tiny_programs")
@on_every_device
@pytest.mark.parametrize(
    "drawing", [Drawing(temperature=0.9), Drawing(top_k=20, guidance=2.0)], ids=["fused", "guided-top-k"]
)
def test_recorded_cycles_draw_what_single_steps_draw(drawing: Drawing, device: str) -> None:
    """With a recording that runs again what it was given; guided, the two rows are of one clip."""
    model = network(TINY, device)
    labels, code = torch.tensor([1, -1], device=device), torch.tensor([20, 20], device=device)
    clips, samples = (range(1), 4) if drawing.guided else (range(2), 3 * 4)
    uniform = ClipNumbers(0, clips).next(samples).to(device)
    fused = FusedNetwork(model)
    state = model.initial_state(2)
    _, expected = stepwise(model, drawing)(Place(code, state, labels), uniform)
    cycle = Recorded(fused.advance(drawing), lambda run: run)
    place, parts = Place(code, fused.state(state), labels), []
    for numbers in uniform.split(4, 1):
        place, part = cycle(place, numbers)
        parts.append(part)
    assert torch.equal(torch.cat([part.codes for part in parts], 1), expected.codes)
    assert_close(torch.cat([part.log_p for part in parts], 1), expected.log_p, OUTPUT_RTOL[torch.float32])


@pytest.mark.gpu
@pytest.mark.parametrize("clips", [1, 3, 64])
@pytest.mark.parametrize("prompt", [None, np.array([20, 25, 14, 17, 20])], ids=["start", "prompt"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_sampler_on_a_gpu_draws_as_the_eager_network(clips: int, prompt: Any, guidance: float) -> None:
    """In CUDA graphs, with labels, from a phase that is not 0, twice with one sampler."""
    model = network(TINY, "cuda")
    sampler, eager = (Sampler(model, Drawing(guidance=guidance), 20, 0) for _ in range(2))
    assert isinstance(sampler._fused, FusedNetwork)
    eager.records, eager._fused = False, None
    for seed in range(2):
        labels = np.arange(clips) % 3
        options = {"labels": labels, "prompt": prompt}
        found, wanted = ([*s.sample(range(seed, seed + clips), 30, **options)] for s in (sampler, eager))
        assert torch.equal(found[-1].codes, wanted[-1].codes)


@pytest.mark.gpu
@pytest.mark.parametrize("clips", [5, 64, 160])
def test_the_papers_network_draws_as_the_eager_one(clips: int) -> None:
    """By vectors, by tiles at the widest level, and by tiles at all but the narrow one."""
    model = network(audio_presets.mamba_speech_small(), "cuda")
    sampler, eager = Sampler(model, Drawing(), 128, 0), Sampler(model, Drawing(), 128, 0)
    eager.records, eager._fused = False, None
    found, wanted = ([*s.sample(range(clips), 64)][-1] for s in (sampler, eager))
    assert (found.codes == wanted.codes).float().mean() > 0.99
