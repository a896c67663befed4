"""A training step of a language model: forward pass, loss, backward pass, optimizer step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bioaudio_recipes.bench.contender import STEP, Contender, Job
from bioaudio_recipes.bench.models import mamba_ssm_model, mambapy_model, our_model, transformers_model
from bioaudio_recipes.bench.plain_transformers import plain_kernels
from bioaudio_recipes.bench.shape import Shape

LEARNING_RATE = 1e-4


def lm_contenders() -> list[Contender]:
    """Ours first; all with the same weights to begin with, the same tokens, loss and optimizer."""
    return [
        Contender(
            name="ours",
            prepare=lambda shape: _training_job(our_model(shape), shape, lambda output: output[0]),
        ),
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
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=LEARNING_RATE, fused=shape.device == "cuda")
    tokens = shape.tokens(shape.batch, shape.length, key=1)
    targets = shape.tokens(shape.batch, shape.length, key=2).flatten()

    def logits() -> Tensor:
        with shape.autocast(), within():
            return logits_of(model(tokens))

    def loss() -> Tensor:
        return F.cross_entropy(logits().float().flatten(0, 1), targets)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    def results() -> list[Tensor]:
        with torch.no_grad():
            untrained = logits()
        step()
        return [untrained]

    inputs = (tokens, targets, *model.parameters())
    return Job(passes={STEP: step}, results=results, keep=loss, inputs=inputs, tokens=tokens.numel())
