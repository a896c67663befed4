"""The whole Mamba block, over a sequence and for one decoding step: ours, and peers with our weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from bioaudio_mamba import MambaBlock, MambaConfig
from bioaudio_recipes.bench.attention import AttentionBlock
from bioaudio_recipes.bench.contender import FORWARD, Contender, Job, differentiable
from bioaudio_recipes.bench.plain_transformers import plain_kernels
from bioaudio_recipes.bench.shape import Shape


def block_contenders() -> list[Contender]:
    """Blocks over a sequence; ours first. bfloat16 means autocast."""
    return [
        Contender(name="ours", prepare=lambda shape: _sequence(_our_block(shape), shape)),
        Contender(
            name="mamba_ssm", peer="mamba_ssm", package="mamba_ssm", cuda_only=True, prepare=_mamba_ssm
        ),
        Contender(
            name="mambapy",
            peer="mambapy",
            package="mambapy",
            is_plain=True,
            prepare=lambda shape: _sequence(_mambapy_block(shape), shape),
        ),
        Contender(
            name="transformers (plain)",
            peer="transformers",
            package="transformers",
            is_plain=True,
            prepare=_transformers,
        ),
        Contender(
            name="attention (SDPA)",
            peer="attention",
            is_same=False,
            is_plain=True,
            prepare=lambda shape: _sequence(AttentionBlock(shape.d_model).to(shape.device), shape),
        ),
    ]


def step_contenders() -> list[Contender]:
    """Blocks that decode one step, forward only; ours first. The length of the shape plays no part."""
    return [
        Contender(name="ours", prepare=_our_step),
        Contender(name="mambapy", peer="mambapy", package="mambapy", prepare=_mambapy_step),
    ]


def _our_block(shape: Shape) -> MambaBlock:
    config = MambaConfig(d_model=shape.d_model, n_layer=1, d_state=shape.d_state)
    return MambaBlock(config, shape.generator(0, "cpu")).to(shape.device)


def _mambapy_block(shape: Shape) -> Any:
    mambapy = importlib.import_module("mambapy.mamba")
    config = mambapy.MambaConfig(d_model=shape.d_model, n_layers=1, d_state=shape.d_state)
    return _with_our_weights(mambapy.MambaBlock(config), shape)


def _with_our_weights(block: nn.Module, shape: Shape) -> nn.Module:
    """All packages name them alike."""
    block.load_state_dict(_our_block(shape).state_dict())
    return block.to(shape.device)


def _sequence(
    block: nn.Module, shape: Shape, within: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Job:
    hidden = shape.normal(shape.batch, shape.length, shape.d_model, key=1).requires_grad_()

    def run() -> Tensor:
        with shape.autocast(), within():
            result = block(hidden)
        return result[0] if isinstance(result, tuple) else result

    ordered = [parameter for _, parameter in sorted(block.named_parameters())]
    return differentiable(run, (hidden, *ordered), shape.normal(*hidden.shape, key=2))


def _mamba_ssm(shape: Shape) -> Job:
    module = importlib.import_module("mamba_ssm.modules.mamba_simple")
    block = module.Mamba(shape.d_model, d_state=shape.d_state)
    return _sequence(_with_our_weights(block, shape), shape)


def _transformers(shape: Shape) -> Job:
    with plain_kernels() as modeling:
        config = modeling.MambaConfig(
            hidden_size=shape.d_model, state_size=shape.d_state, num_hidden_layers=1
        )
        block = modeling.MambaMixer(config, layer_idx=0)
    return _sequence(_with_our_weights(block, shape), shape, plain_kernels)


def _step_job(step: Callable[[], Tensor], shape: Shape) -> Job:
    def run() -> Tensor:
        with torch.no_grad(), shape.autocast():
            return step()

    return Job(passes={FORWARD: run}, results=lambda: [run()])


def _our_step(shape: Shape) -> Job:
    block, hidden = _our_block(shape), shape.normal(shape.batch, shape.d_model, key=1)
    state = block.initial_state(shape.batch)
    return _step_job(lambda: block.step(hidden, state)[0], shape)


def _mambapy_step(shape: Shape) -> Job:
    block, hidden = _mambapy_block(shape), shape.normal(shape.batch, shape.d_model, key=1)
    states = torch.zeros(shape.batch, shape.d_inner, shape.d_state, device=shape.device)
    recent = torch.zeros(shape.batch, shape.d_inner, 3, device=shape.device)
    return _step_job(lambda: block.step(hidden, (states, recent))[0], shape)
