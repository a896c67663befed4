"""A U-Net of Mamba blocks whose every stage is one compiled step: the quickest way to sample on a CPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from bioaudio_kernels.mamba_step import pack_stage, panels, step_head, step_stage
from bioaudio_kernels.mamba_step.packing import Block
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor, nn

from bioaudio_mamba import WaveformLM
from bioaudio_mamba.sashimi import CentreState, SashimiConfig

MOST_ROWS = 16
"""Sequences side by side; for more, products of matrices are quicker than those of vectors."""
Array = NDArray[np.float32]


class StageState(NamedTuple):
    """The states of the layers of a stage, stacked."""

    conv: Array
    ssm: Array


class CompiledState(NamedTuple):
    """A `SashimiState` as arrays."""

    down: StageState
    waiting: Array
    below: Any
    """A `CompiledState`, or the `StageState` of the centre."""
    rising: Array
    up: StageState


def has_known_parts(config: SashimiConfig) -> bool:
    """Whether a network is a U-Net of real, selective Mamba blocks: what compiled and fused steps know."""
    blocks = [config.block(level) for level in range(config.n_levels)]
    return (
        all(block.kind == "mamba" and not block.is_complex for block in blocks)
        and config.norm == "rms"
        and config.unet
        and not config.pool_gain
    )


def can_compile(model: WaveformLM, rows: int) -> bool:
    """Whether `CompiledNetwork` knows all parts of a model, and is the quicker way for so many sequences."""
    config, weight = model.config, model.lm_head.weight
    return (
        rows <= MOST_ROWS
        and (weight.device.type, weight.dtype) == ("cpu", torch.float32)
        and has_known_parts(config)
        and config.d_model % 8 == config.vocab_size % 8 == 0
    )


class CompiledNetwork:
    """The step of a `WaveformLM` for which `can_compile` holds; it does not follow the model's weights."""

    def __init__(self, model: WaveformLM) -> None:
        backbone = model.backbone
        self._embeddings = _array(backbone.embeddings.weight)
        classes = backbone.class_embeddings
        # The last row is that of label -1.
        self._classes = None if classes is None else np.pad(_array(classes.weight), ((0, 1), (0, 0)))
        self._level = _Level(backbone.level, model.config.norm_eps)
        self._norm = _array(backbone.norm_f.weight), _array(backbone.norm_f.bias)
        self._head = panels(_array(model.lm_head.weight)), _array(model.lm_head.bias)
        self._eps = model.config.norm_eps

    def state(self, state: Any) -> Any:
        """A state of the model as arrays: a `CompiledState`, or for a network of one level a `StageState`."""
        return _packed(state)

    def step(
        self, tokens: Int64[Tensor, " batch"], state: Any, *, labels: Int64[Tensor, " batch"] | None = None
    ) -> tuple[Float[Tensor, "batch vocab"], Any]:
        """`WaveformLM.step` on states of `state`."""
        x = self._embeddings[tokens.numpy()]
        if labels is not None and self._classes is not None:
            x = x + self._classes[labels.numpy()]
        x, state = self._level.step(x, state)
        return torch.from_numpy(step_head(x, *self._norm, *self._head, self._eps)), state


class _Level:
    """A `Level` of the network, or its centre."""

    def __init__(self, level: Any, eps: float) -> None:
        self._eps = eps
        self._is_centre = not hasattr(level, "pool")
        if self._is_centre:
            self._up = _packed_stage(level.layers)
            return
        self._down, self._up = _packed_stage(level.down), _packed_stage(level.up)
        self._below = _Level(level.below, eps)
        self._pool = level.pool.pool
        self._into = _array(level.pool.down_proj.weight).T, _array(level.pool.down_proj.bias)
        self._out_of = _array(level.pool.up_proj.weight).T, _array(level.pool.up_proj.bias)

    def step(self, x: Array, state: Any) -> tuple[Array, Any]:
        if self._is_centre:
            y, conv, ssm, _ = step_stage(*self._up, self._eps, x, state.conv, state.ssm)
            return x + y, StageState(conv, ssm)
        x, down_conv, down_ssm, entered = step_stage(
            *self._down, self._eps, x, state.down.conv, state.down.ssm
        )
        rows, waiting, below, rising = len(x), state.waiting, state.below, state.rising
        phase = waiting.shape[1]
        waiting = np.concatenate((waiting, x[:, None]), 1)
        x = x + rising[:, phase]
        if phase + 1 == self._pool:
            y, below = self._below.step(waiting.reshape(rows, -1) @ self._into[0] + self._into[1], below)
            rising = (y @ self._out_of[0] + self._out_of[1]).reshape(rows, self._pool, -1)
            waiting = waiting[:, :0]
        x, up_conv, up_ssm, _ = step_stage(*self._up, self._eps, x, state.up.conv, state.up.ssm, entered)
        down, up = StageState(down_conv, down_ssm), StageState(up_conv, up_ssm)
        return x, CompiledState(down, waiting, below, rising, up)


def weights_of(layer: Any) -> Block:
    """The weights of a residual layer around a Mamba block."""
    mixer = layer.mixer
    return Block(
        layer.norm.weight,
        mixer.in_proj.weight,
        mixer.conv1d.weight.squeeze(1),
        mixer.conv1d.bias,
        mixer.x_proj.weight,
        mixer.dt_proj.weight,
        mixer.dt_proj.bias,
        -torch.exp(mixer.A_log),
        mixer.D,
        mixer.out_proj.weight,
    )


def _packed_stage(layers: nn.ModuleList) -> tuple[Any, Array]:
    return pack_stage([Block(*map(_array, weights_of(layer))) for layer in layers])


def _packed(state: Any) -> Any:
    if isinstance(state, CentreState):
        return _stacked(state.layers)
    waiting, rising = _array(state.waiting), _array(state.rising)
    return CompiledState(_stacked(state.down), waiting, _packed(state.below), rising, _stacked(state.up))


def _stacked(layers: tuple[Any, ...]) -> StageState:
    conv = np.stack([_array(layer.conv) for layer in layers])
    return StageState(conv, np.stack([_array(layer.ssm.transpose(1, 2)) for layer in layers]))


def _array(tensor: Tensor) -> Array:
    return np.ascontiguousarray(tensor.detach().numpy())
