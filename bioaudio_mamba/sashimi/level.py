"""One level of the U-Net around the levels below it, and its state, which may be cut at any sample.

With poolings p, a step k of the level below reads the steps k p .. k p + p - 1 of this one, and is heard in
the steps (k + 1) p .. (k + 1) p + p - 1, after the last of those that it read: the delay of one step below
that keeps the network causal. So a state between two samples holds the steps that wait for their group to be
whole, fewer than p, and what the last whole group made for the group that runs.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bioaudio_mamba.precision import at_least_float32
from bioaudio_mamba.residual import LayerState, ResidualLayer, run_layer
from bioaudio_mamba.sashimi.config import SashimiConfig
from bioaudio_mamba.sashimi.pool import Pool
from bioaudio_mamba.sashimi.stage import make_stage


class CentreState(NamedTuple):
    """The state of the last level."""

    layers: tuple[LayerState, ...]


class LevelState(NamedTuple):
    """The state of a level with others below it."""

    down: tuple[LayerState, ...]
    waiting: Float[Tensor, "batch phase d_model"]
    """The steps of the group that runs. Their number is the phase, so that tensors are all the state holds,
    and a step at a given phase has fixed shapes."""
    below: Any
    """A `LevelState` or the `CentreState`."""
    rising: Float[Tensor, "batch pool d_model"]
    """What comes from below for the group that runs."""
    up: tuple[LayerState, ...]


SashimiState: TypeAlias = LevelState | CentreState
"""All that the network remembers of the past, from level 0 inwards. A value."""


class Centre(nn.Module):
    """The last level: x + layers(x), the layers residual themselves."""

    def __init__(self, config: SashimiConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.layers = make_stage(config, config.n_levels - 1, generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew."""
        _reset(self.layers, generator)

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> CentreState:
        """The state before the first step."""
        return CentreState(_initial(self.layers, batch_size, device))

    def forward(
        self, x: Float[Tensor, "batch length d_model"], state: CentreState, *, again: bool = False
    ) -> tuple[Float[Tensor, "batch length d_model"], CentreState]:
        """Map a sequence that follows on from `state`; `again` is that of `run_layer`."""
        y, layers, _ = _descend(self.layers, x, state.layers, again)
        return x + y, CentreState(layers)

    def step(
        self, x: Float[Tensor, "batch d_model"], state: CentreState
    ) -> tuple[Float[Tensor, "batch d_model"], CentreState]:
        """`forward` over a single step."""
        y, layers, _ = _step_down(self.layers, x, state.layers)
        return x + y, CentreState(layers)


class Level(nn.Module):
    """The layers on the way down, the level below between two pools, the layers on the way up.

    The result of the upper pool is added to what entered the lower one. Of a U-Net each layer on the way up
    then adds what entered its counterpart on the way down; otherwise the stage as a whole adds what entered
    it.
    """

    def __init__(
        self, config: SashimiConfig, number: int = 0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        width, below = config.width(number), config.width(number + 1)
        self.unet = config.unet
        self.down = make_stage(config, number, generator) if config.unet else nn.ModuleList()
        self.pool = Pool(width, below, config.pooling[number], gain=config.pool_gain, generator=generator)
        self.below = make_level(config, number + 1, generator)
        self.up = make_stage(config, number, generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew."""
        _reset(self.down, generator)
        self.pool.reset_parameters(generator)
        self.below.reset_parameters(generator)
        _reset(self.up, generator)

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> LevelState:
        """The state before the first step: no step waits, and nothing comes from below."""
        weight = self.pool.up_proj.weight
        pool, device = self.pool.pool, weight.device if device is None else device
        rising = torch.zeros(
            batch_size, pool, len(weight) // pool, dtype=at_least_float32(weight[:0]).dtype, device=device
        )
        return LevelState(
            down=_initial(self.down, batch_size, device),
            waiting=rising.new_zeros(batch_size, 0, rising.shape[2]),
            below=self.below.initial_state(batch_size, device),
            rising=rising,
            up=_initial(self.up, batch_size, device),
        )

    def forward(
        self, x: Float[Tensor, "batch length d_model"], state: LevelState, *, again: bool = False
    ) -> tuple[Float[Tensor, "batch length d_model"], LevelState]:
        """Map a sequence of any length that follows on from `state`; `again` is that of `run_layer`."""
        x, down, skips = _descend(self.down, x, state.down, again)
        phase, pool = state.waiting.shape[1], self.pool.pool
        end = phase + x.shape[1]
        whole = end - end % pool
        group = torch.cat([state.waiting, x], 1)
        from_below, below = self.below(self.pool.down(group[:, :whole]), state.below, again=again)
        risen = torch.cat([state.rising, self.pool.up(from_below)], 1)
        x = x + risen[:, phase:end]
        x, up = self._ascend(x, state.up, skips, again)
        # Copies: a state must not keep the activations that it is a part of.
        waiting, rising = (
            part[:, whole:].clone(memory_format=torch.contiguous_format) for part in (group, risen)
        )
        return x, LevelState(down, waiting, below, rising, up)

    def step(
        self, x: Float[Tensor, "batch d_model"], state: LevelState
    ) -> tuple[Float[Tensor, "batch d_model"], LevelState]:
        """`forward` over a single step; the level below makes one too when this step makes its group whole.

        Which that is depends on the phase alone, a shape: so torch.compile and CUDA graphs see one program
        for each phase, and the same ones again after `SashimiConfig.cycle` steps of level 0.
        """
        x, down, skips = _step_down(self.down, x, state.down)
        waiting, below, rising = torch.cat([state.waiting, x.unsqueeze(1)], 1), state.below, state.rising
        x = x + rising[:, waiting.shape[1] - 1]
        if waiting.shape[1] == self.pool.pool:
            from_below, below = self.below.step(self.pool.down(waiting).squeeze(1), below)
            waiting, rising = waiting.new_empty(len(x), 0, x.shape[1]), self.pool.up(from_below.unsqueeze(1))
        start, up = x, []
        for layer, layer_state in zip(_layers(self.up), state.up, strict=True):
            x, layer_state = layer.step(x, layer_state)
            if self.unet:
                x = x + skips.pop()
            up.append(layer_state)
        return x if self.unet else x + start, LevelState(down, waiting, below, rising, tuple(up))

    def _ascend(
        self,
        x: Float[Tensor, "batch length d_model"],
        states: tuple[LayerState, ...],
        skips: list[Float[Tensor, "batch length d_model"]],
        again: bool,
    ) -> tuple[Float[Tensor, "batch length d_model"], tuple[LayerState, ...]]:
        """The layers on the way up, with the skip connections."""
        residual, y, new = x, None, []
        for layer, state in zip(_layers(self.up), states, strict=True):
            residual, y, state = run_layer(layer, residual, y, state, again=again)
            if self.unet:
                residual = residual + skips.pop()
            new.append(state)
        assert y is not None
        return residual + y if self.unet else residual + y + x, tuple(new)


def make_level(
    config: SashimiConfig, number: int, generator: torch.Generator | None = None
) -> Level | Centre:
    """Level `number` and all below it."""
    if number < len(config.pooling):
        return Level(config, number, generator)
    return Centre(config, generator)


def fits(level: nn.Module, state: object) -> bool:
    """Whether a state is one of this level and those below it."""
    if isinstance(level, Centre):
        return isinstance(state, CentreState) and len(state.layers) == len(level.layers)
    return (
        isinstance(level, Level)
        and isinstance(state, LevelState)
        and (len(state.down), len(state.up)) == (len(level.down), len(level.up))
        and state.waiting.shape[1] < state.rising.shape[1] == level.pool.pool
        and fits(level.below, state.below)
    )


def _descend(
    layers: nn.ModuleList, x: Tensor, states: tuple[LayerState, ...], again: bool
) -> tuple[Tensor, tuple[LayerState, ...], list[Tensor]]:
    """The result of layers one after another, their states, and what entered each."""
    residual, y, new, entered = x, None, [], []
    for layer, state in zip(_layers(layers), states, strict=True):
        residual, y, state = run_layer(layer, residual, y, state, again=again)
        entered.append(residual)
        new.append(state)
    return residual if y is None else residual + y, tuple(new), entered


def _step_down(
    layers: nn.ModuleList, x: Tensor, states: tuple[LayerState, ...]
) -> tuple[Tensor, tuple[LayerState, ...], list[Tensor]]:
    """`_descend` over a single step."""
    new, entered = [], []
    for layer, state in zip(_layers(layers), states, strict=True):
        entered.append(x)
        x, state = layer.step(x, state)
        new.append(state)
    return x, tuple(new), entered


def _layers(stage: nn.ModuleList) -> list[ResidualLayer]:
    return cast("list[ResidualLayer]", list(stage))


def _reset(stage: nn.ModuleList, generator: torch.Generator | None) -> None:
    for layer in _layers(stage):
        layer.reset_parameters(generator)


def _initial(
    stage: nn.ModuleList, batch_size: int, device: torch.device | str | None
) -> tuple[LayerState, ...]:
    return tuple(layer.mixer.initial_state(batch_size, device) for layer in _layers(stage))
