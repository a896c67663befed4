"""The whole Mamba block, over a sequence and for one decoding step: ours and peers with the same weights."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bioaudio_mamba import MambaBlock, MambaConfig
from bioaudio_recipes.bench.shape import Shape
from bioaudio_recipes.bench.timing import Contender


def block_contenders(shape: Shape) -> list[Contender]:
    """Blocks over a sequence, forward and backward; ours first. bfloat16 means autocast."""
    hidden = shape.normal(shape.batch, shape.length, shape.d_model, seed=0)
    ours = _our_block(shape)
    contenders = [_sequence("ours", ours, hidden, shape)]
    contenders.extend(_sequence(name, block, hidden, shape) for name, block in _peers(shape, ours))
    return contenders


def step_contenders(shape: Shape) -> list[Contender]:
    """Blocks that decode one step, forward only; ours first. The length of the shape plays no part."""
    hidden = shape.normal(shape.batch, shape.d_model, seed=0).detach()
    ours = _our_block(shape)
    state = ours.initial_state(shape.batch)
    contenders = [Contender(name="ours", run=lambda: ours.step(hidden, state)[0])]
    for name, block in _peers(shape, ours):
        if name == "mambapy":
            states = torch.zeros(shape.batch, shape.d_inner, shape.d_state, device=shape.device)
            recent = torch.zeros(shape.batch, shape.d_inner, ours.config.d_conv - 1, device=shape.device)

            def step(block: Any = block, cache: tuple[Tensor, Tensor] = (states, recent)) -> Tensor:
                return block.step(hidden, cache)[0]

            contenders.append(Contender(name=name, run=step))
    return contenders


def _our_block(shape: Shape) -> MambaBlock:
    config = MambaConfig(d_model=shape.d_model, n_layer=1, d_state=shape.d_state)
    return MambaBlock(config, torch.Generator().manual_seed(0)).to(shape.device)


def _sequence(name: str, block: nn.Module, hidden: Tensor, shape: Shape) -> Contender:
    def run() -> Tensor:
        with torch.autocast(shape.device, torch.bfloat16, enabled=shape.dtype == torch.bfloat16):
            result = block(hidden)
        return result[0] if isinstance(result, tuple) else result

    ordered = [parameter for _, parameter in sorted(block.named_parameters())]
    return Contender(name=name, run=run, inputs=(hidden, *ordered))


def _peers(shape: Shape, ours: MambaBlock) -> Iterator[tuple[str, nn.Module]]:
    """Blocks of other packages with our weights: all three name them alike."""
    try:
        mambapy = importlib.import_module("mambapy.mamba")
    except ImportError:
        pass
    else:
        block = mambapy.MambaBlock(
            mambapy.MambaConfig(d_model=shape.d_model, n_layers=1, d_state=shape.d_state)
        )
        block.load_state_dict(ours.state_dict())
        yield "mambapy", block.to(shape.device)
    if shape.device == "cuda":
        try:
            mamba_ssm = importlib.import_module("mamba_ssm.modules.mamba_simple")
        except ImportError:
            return
        block = mamba_ssm.Mamba(shape.d_model, d_state=shape.d_state)
        block.load_state_dict(ours.state_dict())
        yield "mamba_ssm", block.to(shape.device)
