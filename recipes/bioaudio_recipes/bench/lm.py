"""A training step of a language model: forward pass, loss, backward pass, optimizer step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bioaudio_mamba import ModelState, sum_over_chunks
from bioaudio_recipes.bench.contender import STEP, Contender, Job
from bioaudio_recipes.bench.models import mamba_ssm_model, mambapy_model, our_model, transformers_model
from bioaudio_recipes.bench.plain_transformers import plain_kernels
from bioaudio_recipes.bench.shape import Shape
from bioaudio_recipes.training.memory import MemoryPlan, Mode
from bioaudio_recipes.training.recorded_pass import RecordedPass

LEARNING_RATE = 1e-4


def lm_contenders() -> list[Contender]:
    """Ours first, with each way of keeping activations, and as `pretrain`'s CUDA graph; all with the same
    weights, tokens and loss."""
    return [
        Contender(name="ours", prepare=lambda shape: _our_job(shape, "full")),
        Contender(
            name="ours (CUDA graph)",
            cuda_only=True,
            prepare=lambda shape: _our_job(shape, "full", recorded=True),
        ),
        Contender(name="ours (blocks)", prepare=lambda shape: _our_job(shape, "blocks")),
        Contender(name="ours (chunks)", prepare=lambda shape: _our_job(shape, "chunks")),
        Contender(
            name="mamba_ssm",
            peer="mamba_ssm",
            package="mamba_ssm",
            cuda_only=True,
            prepare=lambda shape: _training_job(mamba_ssm_model(shape), shape, lambda output: output.logits),
        ),
        Contender(
            name="mambapy",
            peer="mambapy",
            package="mambapy",
            is_plain=True,
            prepare=lambda shape: _training_job(mambapy_model(shape), shape, lambda output: output),
        ),
        Contender(
            name="transformers (plain)",
            peer="transformers",
            package="transformers",
            is_plain=True,
            prepare=lambda shape: _training_job(
                transformers_model(shape), shape, lambda output: output.logits, plain_kernels
            ),
        ),
    ]


def _training_job(
    model: nn.Module,
    shape: Shape,
    logits_of: Callable[..., Tensor],
    within: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Job:
    tokens, targets = _tokens_and_targets(shape)

    def logits() -> Tensor:
        with shape.autocast(), within():
            return logits_of(model(tokens))

    def loss() -> Tensor:
        return F.cross_entropy(logits().float().flatten(0, 1), targets.flatten())

    return _job(model, shape, logits, loss, (tokens, targets))


def _our_job(shape: Shape, mode: Mode, *, recorded: bool = False) -> Job:
    model = our_model(shape)
    model.backbone.checkpoint_blocks = mode == "blocks"
    tokens, targets = _tokens_and_targets(shape)
    chunk_length = MemoryPlan(mode=mode).chunk_length_of(shape.batch) or shape.length

    def chunk(start: int, end: int, state: ModelState | None) -> tuple[Tensor, ModelState]:
        nll, new_state = model.nll(tokens[:, start:end], targets[:, start:end], state)
        return nll.sum(), new_state

    graph = (
        RecordedPass(lambda _: [chunk(0, shape.length, None)[0]], model.parameters()) if recorded else None
    )

    def loss() -> Tensor:
        with shape.autocast():
            if graph is not None:
                (total,) = graph(())
            elif mode == "chunks":
                total, _ = sum_over_chunks(model, chunk, shape.length, chunk_length)
            else:
                total, _ = chunk(0, shape.length, None)
        return total / targets.numel()

    def logits() -> Tensor:
        state, pieces = None, []
        with shape.autocast():
            for piece in tokens.split(chunk_length, dim=1):
                of_piece, state = model(piece, state)
                pieces.append(of_piece)
        return torch.cat(pieces, dim=1)

    job = _job(model, shape, logits, loss, (tokens, targets), is_kept_seen=mode == "full")
    # A recording has its memory from the first step on: what a later one allocates says nothing.
    return replace(job, keep=None, has_peak=False) if recorded else job


def _job(
    model: nn.Module,
    shape: Shape,
    logits: Callable[[], Tensor],
    loss: Callable[[], Tensor],
    inputs: tuple[Tensor, ...],
    *,
    is_kept_seen: bool = True,
) -> Job:
    """A step of AdamW. `is_kept_seen`: whether a CPU, too, sees all that is kept for the backward pass."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=LEARNING_RATE, fused=shape.device == "cuda")

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    def results() -> list[Tensor]:
        with torch.no_grad():
            untrained = logits()
        step()
        return [untrained]

    keep = loss if is_kept_seen or shape.device == "cuda" else None
    inputs = (*inputs, *model.parameters())
    return Job(
        passes={STEP: step}, results=results, keep=keep, inputs=inputs, tokens=shape.batch * shape.length
    )


def _tokens_and_targets(shape: Shape) -> tuple[Tensor, Tensor]:
    tokens, targets = (shape.tokens(shape.batch, shape.length, key=key) for key in (1, 2))
    return tokens, targets
