"""What `bioaudio bench` does on a GPU only, as far as a CPU can tell: peers and graphs are stand-ins."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from bioaudio_kernels import causal_conv1d, selective_scan
from bioaudio_recipes.bench import roofline
from bioaudio_recipes.bench.clock import FLUSHES, ColdCacheClock
from bioaudio_recipes.bench.contender import Contender
from bioaudio_recipes.bench.graphed_step import GraphedStep
from bioaudio_recipes.bench.memory import kept_bytes, peak_bytes
from bioaudio_recipes.bench.models import our_model
from bioaudio_recipes.bench.plain_transformers import KERNELS, modeling
from bioaudio_recipes.bench.plan import RACES
from bioaudio_recipes.bench.race import largest_difference
from bioaudio_recipes.bench.shape import Shape
from bioaudio_recipes.cuda_graph import WARM_UPS, cuda_graph
from torch import Tensor, nn

from bioaudio_mamba import BlockState, CausalLM, MambaBlock, MambaConfig

SMALL = Shape(batch=2, length=9, d_inner=32, d_state=4, n_layer=2)


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    """Let `import name` find a module with these contents."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__dict__.update(contents)
    monkeypatch.setitem(sys.modules, name, module)


def contender(what: str, name: str) -> Contender:
    return next(c for race in RACES[what] for c in race.contenders() if c.name == name)


def check_agreement(what: str, name: str, shape: Shape = SMALL) -> None:
    """The stand-in, called as the peer would be, gives ours' results."""
    ours, theirs = (contender(what, each).job(shape) for each in ("ours", name))
    assert largest_difference(theirs.results(), ours.results()) < 1e-4
    for run in theirs.passes.values():
        run()


def test_mamba_ssm_scans_its_own_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    def selective_scan_fn(
        u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor,
        delta_softplus: bool = False,
    ) -> Tensor:  # fmt: skip
        assert all(t.is_contiguous() and t.is_leaf for t in (u, delta, B, C, z))
        assert u.shape == (SMALL.batch, SMALL.d_inner, SMALL.length)
        assert B.shape == (SMALL.batch, SMALL.d_state, SMALL.length)
        assert {t.dtype for t in (A, D, delta_bias)} == {torch.float32}
        x, dt, B, C, z = (t.mT for t in (u, delta, B, C, z))
        return selective_scan(x, dt, A, B, C, D, z, delta_bias, dt_softplus=delta_softplus)[0].mT

    stand_in(monkeypatch, "mamba_ssm.ops.selective_scan_interface", selective_scan_fn=selective_scan_fn)
    check_agreement("scan", "mamba_ssm")


@pytest.mark.parametrize(
    ("name", "is_contiguous"), [("causal_conv1d", True), ("causal_conv1d (channels last)", False)]
)
def test_causal_conv1d_is_given_both_of_its_layouts(
    name: str, is_contiguous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def causal_conv1d_fn(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
        assert x.shape == (SMALL.batch, SMALL.d_inner, SMALL.length)
        assert x.is_contiguous() == is_contiguous
        assert x.stride(1 + is_contiguous) == 1
        assert activation == "silu"
        return causal_conv1d(x.mT, weight, bias, activation="silu")[0].mT

    stand_in(monkeypatch, "causal_conv1d", causal_conv1d_fn=causal_conv1d_fn)
    check_agreement("conv", name)


def test_mamba_ssm_block_gets_our_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def mamba(d_model: int, d_state: int) -> nn.Module:
        return MambaBlock(MambaConfig(d_model=d_model, n_layer=1, d_state=d_state))

    stand_in(monkeypatch, "mamba_ssm.modules.mamba_simple", Mamba=mamba)
    check_agreement("block", "mamba_ssm")


class StandInLM(nn.Module):
    """mamba_ssm's MambaLMHeadModel from outside: its weights' names, its calls, states changed in place."""

    def __init__(self, config: SimpleNamespace, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        assert (device, dtype) == ("cpu", torch.float32)
        sizes = {"d_model": config.d_model, "n_layer": config.n_layer, "vocab_size": config.vocab_size}
        self.ours = CausalLM(MambaConfig(**sizes, **config.ssm_cfg))

    def load_state_dict(self, state_dict: Any, *arguments: Any, **options: Any) -> Any:
        assert "backbone.embeddings.weight" not in state_dict
        renamed = {key.replace(".embedding.", ".embeddings."): value for key, value in state_dict.items()}
        return self.ours.load_state_dict(renamed)

    def allocate_inference_cache(self, batch_size: int, max_seqlen: int) -> dict[int, BlockState]:
        return dict(enumerate(self.ours.initial_state(batch_size)))

    def forward(
        self, input_ids: Tensor, inference_params: Any = None, num_last_tokens: int = 0
    ) -> SimpleNamespace:
        if inference_params is None:
            return SimpleNamespace(logits=self.ours(input_ids)[0])
        assert inference_params.seqlen_offset > 0, "at offset 0 it reads a prompt"
        assert input_ids.shape[1] == num_last_tokens == 1
        states = tuple(inference_params.key_value_memory_dict.values())
        logits, after = self.ours.step(input_ids[:, 0], states)
        for state, new in zip(states, after, strict=True):
            state.conv.copy_(new.conv)
            state.ssm.copy_(new.ssm)
        return SimpleNamespace(logits=logits.unsqueeze(1))


def stand_in_for_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def update_graph_cache(
        model: StandInLM, cache: None, batch_size: int, seqlen_og: int, max_seqlen: int
    ) -> SimpleNamespace:
        states = model.allocate_inference_cache(batch_size, max_seqlen)
        states[0].ssm.fill_(3)  # as its warm-up steps leave something there
        settings = SimpleNamespace(seqlen_offset=seqlen_og, key_value_memory_dict=states)

        def replay(input_ids: Tensor, position_ids: Tensor, seqlen: int) -> Tensor:
            assert torch.is_inference_mode_enabled(), "its tensors are inference tensors"
            assert position_ids.shape == input_ids.shape == (batch_size, 1)
            return model(input_ids, inference_params=settings, num_last_tokens=1).logits

        return SimpleNamespace(run=replay, inference_params=settings)

    stand_in(monkeypatch, "mamba_ssm.models.config_mamba", MambaConfig=SimpleNamespace)
    stand_in(monkeypatch, "mamba_ssm.models.mixer_seq_simple", MambaLMHeadModel=StandInLM)
    stand_in(
        monkeypatch,
        "mamba_ssm.utils.generation",
        InferenceParams=SimpleNamespace,
        update_graph_cache=update_graph_cache,
    )


@pytest.mark.parametrize(
    ("what", "name"), [("lm", "mamba_ssm"), ("decode", "mamba_ssm"), ("decode", "mamba_ssm, CUDA graph")]
)
def test_mamba_ssm_language_model_agrees_with_ours(
    what: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in_for_models(monkeypatch)
    check_agreement(what, name)


def test_transformers_stays_plain_beside_mamba_ssm(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel_of(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def kernel(*arguments: Any, **options: Any) -> Any:
            raise AssertionError("mamba_ssm's kernel was called")

        return kernel

    kernels = {name: kernel_of(getattr(modeling(), name)) for name in KERNELS}
    for name, kernel in kernels.items():
        monkeypatch.setattr(modeling(), name, kernel)
    for what in ("scan", "block", "lm", "decode"):
        check_agreement(what, "transformers (plain)")
    assert all(getattr(modeling(), name) is kernel for name, kernel in kernels.items())


def test_graphed_steps_are_the_model_s_steps() -> None:
    model = our_model(SMALL)
    tokens = SMALL.tokens(5, SMALL.batch, key=9)
    step = GraphedStep(model, SMALL.batch, record=lambda run: run)
    state = model.initial_state(SMALL.batch)
    with torch.no_grad():
        for _ in range(2):
            for token in tokens:
                expected, state = model.step(token, state)
                torch.testing.assert_close(step(token), expected)
            step.reset()
            state = model.initial_state(SMALL.batch)


def test_a_recording_runs_after_its_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    stream = SimpleNamespace(wait_stream=lambda _: None)
    fakes: dict[str, Callable[..., Any]] = {
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda _: nullcontext(),
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: calls.append("replay")),
        "graph": lambda _, **options: nullcontext(calls.append("record")),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    result = torch.ones(1)

    def run() -> Tensor:
        calls.append("run")
        return result

    replay = cuda_graph(run)
    assert calls == ["run"] * WARM_UPS + ["record", "run"]
    assert replay() is result
    assert calls[-1] == "replay"


def test_gpu_time_is_between_events_after_the_cache_is_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    event = SimpleNamespace(record=lambda: calls.append("event"), elapsed_time=lambda _: 1.5)
    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("wait"))
    clock = ColdCacheClock("cpu")
    clock.scratch = SimpleNamespace(zero_=lambda: calls.append("flush"))  # pyright: ignore[reportAttributeAccessIssue]
    assert clock(lambda: calls.append("run")) == 1.5
    assert calls == ["wait", *["flush"] * FLUSHES, "event", "run", "event", "wait"]


def test_gpu_memory_is_what_the_allocator_says(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"now": 100, "most": 0}

    def run() -> None:
        held["now"] += 7
        held["most"] = 150

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: held["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: held["most"])
    assert kept_bytes(run, (), "cuda") == 7
    assert peak_bytes(run) == 150 - 107


def test_the_bound_of_exponentials_comes_from_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(multi_processor_count=132, clock_rate=1_980_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    monkeypatch.setattr(roofline, "clock_for", lambda _: lambda run: 2.0)
    monkeypatch.setattr(roofline, "COPIED_BYTES", {"cuda": 1000})
    monkeypatch.setattr(torch, "ones", lambda *size, dtype, device: torch.zeros(*size, dtype=dtype))
    device = roofline.measure_device("cuda")
    assert device.bytes_per_second == 1e6
    assert device.exponentials_per_second == pytest.approx(16 * 132 * 1.98e9)
