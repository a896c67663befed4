"""The way activations are kept: chosen by what fits, and without effect on the training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bioaudio_data.vocabulary import DNA, SOFT_MASK_BIT
from bioaudio_recipes.commands.pretrain import pretrain
from bioaudio_recipes.optimisation import OptimizerConfig
from bioaudio_recipes.pretrain.language_model import LanguageModel
from bioaudio_recipes.pretrain.next_token_loss import next_token_sums
from bioaudio_recipes.pretrain.objective import NextBase
from bioaudio_recipes.training import memory
from bioaudio_recipes.training.block_memory import bytes_per_token
from bioaudio_recipes.training.engine import TrainerConfig, fit
from bioaudio_recipes.training.free_memory import free_bytes, free_in_container
from bioaudio_recipes.training.memory import MODES, MemoryPlan, MemoryPlanner
from pretrain_runs import arguments, make_store
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, assert_close
from torch import Tensor

from bioaudio_mamba import CausalLM, MambaConfig

CONFIG = MambaConfig(d_model=8, n_layer=2, d_state=4, backend="reference")
CPU = torch.device("cpu")
TOKENS, LENGTH = 4 * 11, 11


def planner(**changes: Any) -> MemoryPlanner:
    settings: dict[str, Any] = {"memory": "auto", "chunk_length": None, "model": CONFIG, "tokens": TOKENS}
    return MemoryPlanner(**(settings | {"half": False, "parameters": 0} | changes))


def windows(rows: int = 4, length: int = LENGTH, seed: int = 0) -> Tensor:
    """Random bases, some of them N and some soft-masked."""
    rng = torch.Generator().manual_seed(seed)
    bases = torch.randint(DNA.A, DNA.T + 1, (rows, length), generator=rng)
    bases[torch.rand(bases.shape, generator=rng) < 0.25] = DNA.N
    bases[torch.rand(bases.shape, generator=rng) < 0.33] |= SOFT_MASK_BIT
    return bases.to(torch.uint8)


def train(chosen: MemoryPlanner | None, steps: int = 3) -> LanguageModel:
    module = LanguageModel(
        CausalLM(CONFIG, torch.Generator().manual_seed(0)),
        OptimizerConfig(learning_rate=1e-2, warmup=0.0, ema_decay=0.5),
        NextBase(soft_mask_weight=0.25),
        total_steps=steps,
        tokens_per_step=2 * TOKENS,
        tokens_per_microbatch=TOKENS,
        planner=chosen,
    )
    batches = [windows(seed=seed) for seed in range(2 * steps)]
    loader = torch.utils.data.DataLoader(batches, batch_size=None)  # pyright: ignore[reportArgumentType]
    fit(module, loader, [], TrainerConfig(accelerator="cpu"), accumulation=2)
    return module


@pytest.mark.parametrize("chunk_length", [1, 4, 11, 100])
def test_sums_in_chunks_are_those_of_the_whole(chunk_length: int) -> None:
    model, batch = CausalLM(CONFIG, torch.Generator().manual_seed(0)), windows()
    whole = next_token_sums(model, batch, 0.25)
    cut = next_token_sums(model, batch, 0.25, chunk_length=chunk_length)
    for one, other in zip(cut, whole, strict=True):
        assert_close(one.detach(), other.detach(), OUTPUT_RTOL[torch.float32])
    assert [each.requires_grad for each in cut] == [True, False, False, False]


@pytest.mark.parametrize("settings", [{"memory": "chunks", "chunk_length": 3}, {"memory": "blocks"}])
def test_training_does_not_depend_on_the_memory(settings: dict[str, Any]) -> None:
    """Weights and their average, gradient norms and logged sums, over steps of two micro-batches."""
    full, other = train(None), train(planner(**settings))
    assert other.memory.plan.mode == settings["memory"]
    weights = full.state_dict()
    for name, weight in other.state_dict().items():
        assert_close(weight, weights[name], GRADIENT_RTOL[torch.float32], name)
        if settings["memory"] == "blocks":
            assert torch.equal(weight, weights[name])
    assert_close(other.grad_norm, full.grad_norm, GRADIENT_RTOL[torch.float32])
    assert other.take_interval() == pytest.approx(full.take_interval(), rel=1e-4)


def test_auto_takes_the_first_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    full, blocks, chunks = (bytes_per_token(CONFIG, mode, half=False, on_gpu=False) for mode in MODES)
    assert full == chunks > blocks
    share, tokens = memory.SHARE_OF_CPU, 2**20
    chosen = planner(tokens=tokens)
    for per_token, mode in ((1.01 * full, "full"), (1.01 * blocks, "blocks"), (0.9 * blocks, "chunks")):
        monkeypatch.setattr(memory, "free_bytes", lambda _, there=per_token * tokens / share: int(there))
        plan = chosen.choose(CPU)
        assert plan.mode == mode
        assert f"memory: {mode}" in chosen.describe(plan, CPU)
    assert plan.chunk_tokens == memory.CHUNK_TOKENS
    monkeypatch.setattr(memory, "free_bytes", lambda _: int(5000 * full / share))
    assert planner(memory="chunks").choose(CPU).chunk_tokens == 4096
    assert planner(memory="chunks", chunk_length=7).choose(CPU).chunk_length_of(100) == 7


def test_a_given_chunk_length_asks_for_chunks() -> None:
    plan = planner(chunk_length=7).choose(CPU)
    assert plan.mode == "chunks"
    assert plan.chunk_length_of(100) == 7


def test_a_compiled_model_keeps_more() -> None:
    for mode in MODES:
        eager, compiled = (
            bytes_per_token(CONFIG, mode, half=True, on_gpu=True, compiled=c) for c in (False, True)
        )
        assert compiled > eager


@pytest.mark.parametrize(("asked", "kept"), [(None, True), (5, True), (6, False)])
def test_a_resumed_run_keeps_its_plan_unless_asked_for_another(asked: int | None, kept: bool) -> None:
    saved = memory.TrainingMemory(planner())
    plan = MemoryPlan(mode="chunks", chunk_length=5)
    resumed = memory.TrainingMemory(planner(chunk_length=asked))
    resumed.resume(saved.to_dict() | {"mode": plan.mode, "chunk_length": plan.chunk_length})
    assert (resumed.plan.chunk_length == 5) == kept


def test_a_chunk_holds_its_tokens_over_all_rows() -> None:
    plan = MemoryPlan(mode="chunks", chunk_tokens=1024)
    assert [plan.chunk_length_of(rows) for rows in (1, 4, 5000)] == [1024, 256, 1]
    assert MemoryPlan(mode="blocks").chunk_length_of(1) is None


def test_free_memory_is_that_of_the_machine_or_less() -> None:
    assert 0 < free_bytes(CPU) < 2**50


@pytest.mark.parametrize(("limit", "free"), [("1000", 900), ("50", 0), ("max", 2**63), (None, 2**63)])
def test_a_container_s_limit_counts(limit: str | None, free: int, tmp_path: Path) -> None:
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text("100\n")
    assert free_in_container(tmp_path) == free


@pytest.mark.parametrize(
    ("mode", "advice"),
    [
        ("full", "--trainer.memory auto --trainer.chunk_length 32768 would fit"),
        ("chunks", "give --trainer.chunk_length 8192"),
    ],
)
@pytest.mark.parametrize("where", ["next_token_sums", "backward"])
def test_out_of_memory_names_what_would_fit(
    mode: str, advice: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhaust(*_: Any, **__: Any) -> Any:
        if where == "backward":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        raise torch.OutOfMemoryError("CUDA out of memory")

    target: Any = "bioaudio_recipes.pretrain.objective.next_token_sums"
    if where == "backward":
        monkeypatch.setattr(torch.Tensor, "backward", exhaust)
    else:
        monkeypatch.setattr(target, exhaust)
    with pytest.raises(ValueError, match=f"out of memory with --trainer.memory {mode}.*{advice}"):
        train(planner(memory=mode))


def test_a_resumed_run_keeps_what_auto_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store(tmp_path)

    def run(free: int, **trainer: Any) -> None:
        monkeypatch.setattr(memory, "free_bytes", lambda _: free)
        pretrain(**arguments(store, tmp_path / "run", **trainer))

    with caplog.at_level("INFO"):
        run(0, max_minutes=1e-9)
        run(2**40, max_minutes=1e-9)
        with pytest.raises(ValueError, match=r"trainer\.memory was None, now it is 'chunks'"):
            run(0, memory="chunks")
    chosen = [record.message for record in caplog.records if record.name == memory.__name__]
    assert [text.split(";")[0] for text in chosen] == 2 * ["memory: chunks of 256 tokens"]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"chunk_length": 0}, "--trainer.chunk_length must be 1 or more, got 0"),
        (
            {"memory": "blocks", "chunk_length": 8},
            "--trainer.chunk_length is for memory chunks, not for blocks",
        ),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], complaint: str) -> None:
    build: Callable[..., TrainerConfig] = TrainerConfig
    with pytest.raises(ValueError, match=complaint):
        build(**settings)
