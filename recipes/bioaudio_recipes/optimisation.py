"""AdamW, a learning rate that warms up and decays over the whole run, rescaled and clipped gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from bioaudio_mamba import optimizer_groups

LTI_LEARNING_RATE = 1e-3
"""Highest peak learning rate of A, B and dt of S4D, as in S4 (arXiv 2111.00396)."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its learning rate over the whole run (Mamba paper, appendix E.3)."""

    learning_rate: float = 8e-3
    """Peak learning rate."""
    lr_min: float = 1e-5
    """Learning rate at the last step."""
    warmup: float = 0.1
    """Share of all steps over which the learning rate rises linearly to its peak."""
    weight_decay: float = 0.1
    """Decoupled weight decay of the matrices; A_log, D, biases and norms never decay."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's averaging factors of the gradient and of its square."""
    clip_norm: float = 1.0
    """Largest norm of the gradient of a step."""
    ema_decay: float | None = None
    """Also keep an exponential average of the weights with this decay (at first a smaller one, see
    `update_average`), then validated and exported."""

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"--optimizer.learning_rate must be above 0, got {self.learning_rate}")
        if not 0 <= self.lr_min <= self.learning_rate:
            raise ValueError(f"--optimizer.lr_min must lie in [0, learning_rate], got {self.lr_min}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"--optimizer.warmup is a share of all steps in [0, 1), got {self.warmup}")
        if self.weight_decay < 0:
            raise ValueError(f"--optimizer.weight_decay must be 0 or more, got {self.weight_decay}")
        if self.clip_norm <= 0:
            raise ValueError(f"--optimizer.clip_norm must be above 0, got {self.clip_norm}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"--optimizer.ema_decay must lie in (0, 1), got {self.ema_decay}")


def learning_rate_at(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Learning rate of step `step` (from 0) of `total_steps`: linear warm-up, then a cosine to `lr_min`.

    The first step of a warm-up of w steps takes 1/w of the peak; the last step of the run takes `lr_min`.
    """
    warmup_steps = round(config.warmup * total_steps)
    if step < warmup_steps:
        return config.learning_rate * (step + 1) / warmup_steps
    progress = (step - warmup_steps + 1) / max(1, total_steps - warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.lr_min + (config.learning_rate - config.lr_min) * cosine


def _factor(config: OptimizerConfig, total_steps: int, step: int) -> float:
    return learning_rate_at(step, total_steps, config) / config.learning_rate


def build_optimizer(model: nn.Module, config: OptimizerConfig, total_steps: int) -> tuple[AdamW, LambdaLR]:
    """AdamW over `model`'s trainable parameters and its schedule, to be stepped once per optimizer step."""
    lti_learning_rate = min(LTI_LEARNING_RATE, config.learning_rate)
    groups = optimizer_groups(model, config.weight_decay, lti_learning_rate)
    optimizer = AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
    return optimizer, LambdaLR(optimizer, partial(_factor, config, total_steps))


def rescale_and_clip(parameters: Iterable[nn.Parameter], scale: Tensor, clip_norm: float) -> Tensor:
    """Multiply all gradients by `scale`, clip their norm to `clip_norm`; returns the norm before clipping.

    Nothing is read back from the device, so a training step never waits for it.

    Args:
        parameters: those of the model; the ones without a gradient are passed over.
        scale: scalar on the gradients' device.
        clip_norm: largest 2-norm of all gradients taken as one vector.
    """
    with_gradient = [p for p in parameters if p.grad is not None]
    gradients = [p.grad for p in with_gradient if p.grad is not None]
    torch._foreach_mul_(gradients, scale.to(gradients[0].dtype))  # pyright: ignore[reportPrivateImportUsage]
    return nn.utils.clip_grad_norm_(with_gradient, clip_norm, foreach=True)


def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the weights of `average` towards those of `model` after step `step` (from 0).

    The decay is at most (1 + step) / (10 + step): else the weights that the training began with would weigh
    decay^step, longer than a short training lasts. Nothing is read back from the device.
    """
    weights = [parameter.detach() for parameter in average.parameters()]
    news = [parameter.detach() for parameter in model.parameters()]
    share = 1 - min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(weights, news, share)  # pyright: ignore[reportPrivateImportUsage]
