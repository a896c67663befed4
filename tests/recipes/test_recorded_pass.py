"""A recorded pass gives the numbers and the training of one that is not, for every shape of batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from bioaudio_data.vocabulary import DNA
from bioaudio_recipes.cuda_graph import Record, RecordingError, cuda_graph
from bioaudio_recipes.optimisation import OptimizerConfig
from bioaudio_recipes.pretrain.language_model import LanguageModel
from bioaudio_recipes.pretrain.objective import NextBase
from bioaudio_recipes.training.engine import TrainerConfig, fit
from bioaudio_recipes.training.memory import MemoryPlanner
from bioaudio_recipes.training.recorded_pass import RecordedPass
from torch import Tensor, nn

from bioaudio_mamba import BlockConfig, CausalLM, MambaConfig, SashimiConfig, WaveformLM

LENGTHS = (12, 12, 7, 12)


class Recording:
    """Keeps what is recorded, as the function that it was."""

    def __init__(self) -> None:
        self.runs: list[Callable[[], Any]] = []

    def __call__(self, run: Callable[[], Any]) -> Callable[[], Any]:
        run()
        self.runs.append(run)
        return run


class Batch(NamedTuple):
    x: Tensor
    weights: Tensor


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, 3.0]))
        self.unused = nn.Parameter(torch.ones(1))


def batch(length: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(*(torch.randn(length, 2, generator=generator) for _ in range(2)))


def line_and_pass(record: Record) -> tuple[Line, Callable[[Batch], list[Tensor]], RecordedPass]:
    line = Line()

    def function(batch: Batch) -> list[Tensor]:
        products = batch.x * line.weight * batch.weights
        return [products.sum(), batch.weights.sum()]

    return line, function, RecordedPass(function, line.parameters(), record)


def test_each_batch_gets_its_own_results_and_gradients() -> None:
    recording = Recording()
    line, function, recorded = line_and_pass(recording)
    for seed, length in enumerate(LENGTHS):
        given = batch(length, seed)
        expected, actual = function(given), recorded(given)
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other)
        gradient = torch.autograd.grad(expected[0] / 5, line.weight)[0]
        (actual[0] / 5).backward()
        assert line.weight.grad is not None
        torch.testing.assert_close(line.weight.grad, gradient)
        assert line.unused.grad is None
        line.weight.grad = None
    assert len(recording.runs) == 3  # a shape is recorded when it comes, and not kept beside another


def test_gradients_of_micro_batches_add_up() -> None:
    line, function, recorded = line_and_pass(Recording())
    batches = [batch(6, seed) for seed in range(3)]
    for given in batches:
        recorded(given)[0].backward()
    expected = torch.autograd.grad(torch.stack([function(given)[0] for given in batches]).sum(), line.weight)
    torch.testing.assert_close(line.weight.grad, expected[0])


def test_a_forgotten_recording_is_made_again() -> None:
    recording = Recording()
    _, _, recorded = line_and_pass(recording)
    first = recorded(batch(6, 0))[0].item()
    recorded.forget()
    assert recorded(batch(6, 0))[0].item() == first
    assert len(recording.runs) == 2


def test_what_cannot_be_recorded_says_what_to_do() -> None:
    def fail(run: Callable[[], Any]) -> Callable[[], Any]:
        raise RecordingError("this cannot be recorded as a CUDA graph: it waits")

    with pytest.raises(RecordingError, match=r"it waits; --trainer.cuda_graph false trains without one"):
        train(fail, "cpu")


@pytest.mark.parametrize("mode", ["blocks", "chunks"])
def test_only_a_pass_that_keeps_all_activations_is_recorded(mode: Any) -> None:
    def fail(run: Callable[[], Any]) -> Callable[[], Any]:
        raise AssertionError("recorded")

    config, sizes = TrainerConfig(memory=mode), MambaConfig(d_model=16, n_layer=2, d_state=4)
    train(fail, "cpu", planner=config.planner(sizes, 0, 12))


@pytest.mark.parametrize(
    ("changes", "records"),
    [
        ({}, True),
        ({"cuda_graph": False}, False),
        ({"accelerator": "cpu"}, False),
        ({"compile": True}, False),
        ({"devices": 2}, True),
        ({"devices": 2, "context": 2}, False),
        ({"devices": 2, "strategy": "fsdp"}, False),
    ],
)
def test_passes_are_recorded_where_they_can_be(
    changes: dict[str, Any], records: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert TrainerConfig(**changes).records() == records


def train(record: Record | None, device: str, *, planner: MemoryPlanner | None = None) -> LanguageModel:
    module = LanguageModel(
        CausalLM(MambaConfig(d_model=16, n_layer=2, d_state=4), torch.Generator().manual_seed(0)),
        OptimizerConfig(learning_rate=1e-2, warmup=0.0, ema_decay=0.5),
        NextBase(),
        total_steps=len(LENGTHS),
        tokens_per_step=24,
        tokens_per_microbatch=12,
        record=record,
        planner=planner,
    )
    generator = torch.Generator().manual_seed(0)
    batches = [
        torch.randint(DNA.A, DNA.T + 2, (2, length), generator=generator, dtype=torch.uint8)
        for length in LENGTHS
        for _ in range(2)
    ]
    loader = torch.utils.data.DataLoader(batches, batch_size=None)  # pyright: ignore[reportArgumentType]
    fit(module, loader, [], TrainerConfig(accelerator=device), accumulation=2)
    return module


def test_a_recorded_training_is_the_training() -> None:
    recording = Recording()
    expected, actual = train(None, "cpu"), train(recording, "cpu")
    assert len(recording.runs) == 3
    for one, other in zip(actual.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert actual.take_interval() == pytest.approx(expected.take_interval())


@pytest.mark.gpu
def test_on_a_gpu_a_recorded_training_is_the_training() -> None:
    expected, actual = train(None, "gpu"), train(cuda_graph, "gpu")
    for one, other in zip(actual.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["mamba", "mamba-s4", "s4", "attention"])
@pytest.mark.parametrize("is_complex", [False, True])
def test_every_kind_of_block_can_be_recorded(kind: Any, is_complex: bool) -> None:
    block = BlockConfig(kind=kind, complex=is_complex) if kind != "attention" else BlockConfig(kind=kind)
    config = SashimiConfig(d_model=32, n_layer=1, pooling=(4,), blocks=(block,))
    model = WaveformLM(config, torch.Generator().manual_seed(0)).cuda()

    def function(codes: Tensor) -> list[Tensor]:
        with torch.autocast("cuda", torch.bfloat16):
            return [model.nll(codes, codes)[0].sum()]

    recorded = RecordedPass(function, model.parameters())
    for seed in range(3):
        codes = torch.randint(256, (2, 512), generator=torch.Generator().manual_seed(seed)).cuda()
        value = recorded(codes)[0]
        value.backward()
        actual = [parameter.grad for parameter in model.parameters()]
        model.zero_grad()
        expected = function(codes)[0]
        expected.backward()
        torch.testing.assert_close(value, expected)
        for one, parameter in zip(actual, model.parameters(), strict=True):
            torch.testing.assert_close(one, parameter.grad, rtol=1e-3, atol=1e-3)
        model.zero_grad()
