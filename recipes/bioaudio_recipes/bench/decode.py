"""Decoding with a language model: steps from one token of each sequence to the logits of the next."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from bioaudio_recipes.bench.contender import STEP, Contender, Job
from bioaudio_recipes.bench.graphed_step import GraphedStep
from bioaudio_recipes.bench.models import (
    mamba_ssm_model,
    mambapy_model,
    narrowed,
    our_model,
    transformers_model,
)
from bioaudio_recipes.bench.plain_transformers import plain_kernels
from bioaudio_recipes.bench.roofline import Work, size_of
from bioaudio_recipes.bench.shape import Shape

STEPS = 50
"""Timed together; the host may run ahead of a GPU within them."""
CHECKED_STEPS = 4
LONGEST_SEQUENCE = 2**20
"""For mamba_ssm's cache, which needs a number and takes no memory for it."""

Step = Callable[[Tensor], Tensor]


def decode_contenders() -> list[Contender]:
    """Ours first; all with the same weights, in the shape's dtype, and no sampling."""

    def peer(name: str, package: str, prepare: Callable[[Shape], Job], cuda_only: bool = False) -> Contender:
        return Contender(name=name, peer=package, package=package, prepare=prepare, cuda_only=cuda_only)

    return [
        Contender(name="ours", prepare=_ours),
        Contender(name="ours, CUDA graph", prepare=_ours_graphed, cuda_only=True),
        peer("mamba_ssm", "mamba_ssm", _mamba_ssm, cuda_only=True),
        peer("mamba_ssm, CUDA graph", "mamba_ssm", _mamba_ssm_graphed, cuda_only=True),
        peer("transformers (plain)", "transformers", _transformers),
        peer("mambapy", "mambapy", _mambapy),
    ]


def _job(
    step: Step,
    reset: Callable[[], object],
    shape: Shape,
    *,
    within: Callable[[], AbstractContextManager[object]] = nullcontext,
    work: Work | None = None,
) -> Job:
    """Steps over fixed tokens.

    Args:
        step: one step, which keeps its state.
        reset: goes back to the state before the first token.
        shape: its length plays no part.
        within: where a step runs.
        work: that of one step.
    """
    tokens = shape.tokens(STEPS, shape.batch, key=1)

    def run(count: int = STEPS) -> list[Tensor]:
        # Inference mode, since mamba_ssm makes its states in it.
        with torch.inference_mode(), within():
            return [step(token) for token in tokens[:count]]

    def results() -> list[Tensor]:
        with torch.inference_mode():
            reset()
        return run(CHECKED_STEPS)

    return Job(
        passes={STEP: run},
        results=results,
        work={STEP: work} if work else {},
        repeats=STEPS,
        tokens=shape.batch,
    )


def _ours(shape: Shape) -> Job:
    model = narrowed(our_model(shape), shape.dtype)
    start = model.initial_state(shape.batch)
    state = start

    def step(tokens: Tensor) -> Tensor:
        nonlocal state
        logits, state = model.step(tokens, state)
        return logits

    def reset() -> None:
        nonlocal state
        state = start

    states = size_of([tensor for layer in start for tensor in layer])
    work = Work(bytes_moved=size_of(list(model.parameters())) + 2 * states)
    return _job(step, reset, shape, work=work)


def _ours_graphed(shape: Shape) -> Job:
    with torch.inference_mode():
        step = GraphedStep(narrowed(our_model(shape), shape.dtype), shape.batch)
    return _job(step, step.reset, shape)


def _mamba_ssm(shape: Shape) -> Job:
    model = mamba_ssm_model(shape, shape.dtype).eval()
    generation = importlib.import_module("mamba_ssm.utils.generation")
    cache = model.allocate_inference_cache(shape.batch, LONGEST_SEQUENCE)
    # Past the first token, whatever the state: at offset 0 the model takes a prompt.
    settings = generation.InferenceParams(
        max_seqlen=LONGEST_SEQUENCE,
        max_batch_size=shape.batch,
        seqlen_offset=1,
        key_value_memory_dict=cache,
    )

    def step(tokens: Tensor) -> Tensor:
        output = model(tokens.unsqueeze(1), inference_params=settings, num_last_tokens=1)
        return output.logits.squeeze(1)

    return _job(step, lambda: _zero(cache.values()), shape)


def _mamba_ssm_graphed(shape: Shape) -> Job:
    model = mamba_ssm_model(shape, shape.dtype).eval()
    generation = importlib.import_module("mamba_ssm.utils.generation")
    cache = generation.update_graph_cache(model, None, shape.batch, 1, LONGEST_SEQUENCE)
    positions = torch.ones(shape.batch, 1, dtype=torch.long, device=shape.device)

    def step(tokens: Tensor) -> Tensor:
        return cache.run(tokens.unsqueeze(1), positions, 1).squeeze(1)

    return _job(step, lambda: _zero(cache.inference_params.key_value_memory_dict.values()), shape)


def _transformers(shape: Shape) -> Job:
    model = transformers_model(shape).to(shape.dtype).eval()
    # Its name until transformers 5.23, and since.
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "cache_params"
    cache: Any = None

    def step(tokens: Tensor) -> Tensor:
        nonlocal cache
        output = model(tokens.unsqueeze(1), **{name: cache}, use_cache=True)
        cache = getattr(output, name)
        return output.logits.squeeze(1)

    def reset() -> None:
        nonlocal cache
        cache = None

    return _job(step, reset, shape, within=plain_kernels)


def _mambapy(shape: Shape) -> Job:
    # Under autocast: it multiplies its float32 states with whatever dtype the weights have.
    model = mambapy_model(shape).eval()
    caches: list[tuple[Tensor | None, Tensor]] = []

    def step(tokens: Tensor) -> Tensor:
        nonlocal caches
        logits, caches = model.step(tokens, caches)
        return logits

    def reset() -> None:
        recent = torch.zeros(shape.batch, shape.d_inner, model.config.d_conv - 1, device=shape.device)
        caches[:] = [(None, recent) for _ in range(shape.n_layer)]

    return _job(step, reset, shape, within=shape.autocast)


def _zero(states: Iterable[Iterable[Tensor]]) -> None:
    for layer in states:
        for state in layer:
            state.zero_()
