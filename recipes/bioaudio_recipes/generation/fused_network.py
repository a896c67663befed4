"""A U-Net of Mamba blocks on a GPU, a few launches a step: the quickest way to sample there.

What a level makes of a whole group of steps is heard from the next group on. So the level below runs on a
stream of its own, beside the rest of this step and the way down of the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from bioaudio_kernels.mamba_step.triton_config import MOST_STATES, WIDEST
from bioaudio_kernels.mamba_step.triton_launch import (
    Source,
    StageMemory,
    draw_triton,
    head_triton,
    linear_triton,
    stage_memory,
    step_stage_triton,
)
from bioaudio_kernels.mamba_step.triton_packing import (
    filled_up,
    pack_head,
    pack_linear,
    pack_stage_triton,
    padded,
)
from jaxtyping import Float, Int64
from torch import Tensor, nn

from bioaudio_mamba import WaveformLM
from bioaudio_recipes.generation.compiled_network import has_known_parts, weights_of
from bioaudio_recipes.generation.cycle import Advance, Drawn, Place, stepwise
from bioaudio_recipes.generation.drawing import LARGEST, Drawing


class FusedState(NamedTuple):
    """A `LevelState` in fixed memory, filled up to powers of two; a step overwrites it."""

    phase: int
    """Steps of the group that runs."""
    pending: bool
    """Whether the level below may still be at work, and `rising` is that of the group before."""
    down: StageMemory
    waiting: Float[Tensor, "rows pool D"]
    entry: Float[Tensor, "rows D_below"]
    """What the level below hears."""
    below: Any
    """A `FusedState`, or the `StageMemory` of the centre."""
    answer: Float[Tensor, "rows D_below"]
    """What it makes of it."""
    rising: Float[Tensor, "rows pool D"]
    up: StageMemory


class FusedTop(NamedTuple):
    """The state of the network."""

    level: Any
    """That of level 0: a `FusedState`, or a `StageMemory`."""
    hidden: Float[Tensor, "rows D"]
    """What left level 0 in the last step."""


def can_fuse(model: WaveformLM) -> bool:
    """Whether `FusedNetwork` knows all parts of a model, and the model is where its kernels run."""
    weight, config = model.lm_head.weight, model.config
    return (
        (weight.device.type, weight.dtype) == ("cuda", torch.float32)
        and has_known_parts(config)
        and config.width(config.n_levels - 1) <= WIDEST
        and all(block.states <= MOST_STATES for block in config.blocks)
    )


class FusedNetwork:
    """The step of a `WaveformLM` for which `can_fuse` holds; it does not follow the model's weights."""

    @torch.no_grad()
    def __init__(self, model: WaveformLM) -> None:
        config, backbone = model.config, model.backbone
        self._vocab = config.vocab_size
        self._level = _Level(backbone.level, config.norm_eps)
        D = self._level.up.sizes.D
        self._embeddings = _table(backbone.embeddings, D)
        classes = backbone.class_embeddings
        self._classes = None if classes is None else _table(classes, D)
        norm, head = backbone.norm_f, model.lm_head
        self._head = pack_head(norm.weight, norm.bias, head.weight, head.bias, D, config.norm_eps)

    @torch.no_grad()
    def state(self, state: Any) -> FusedTop:
        """A state of the model in memory of its own."""
        hidden = self._embeddings.new_zeros(_rows(state), self._embeddings.shape[1])
        return FusedTop(self._level.state(state), hidden)

    def step(
        self,
        tokens: Int64[Tensor, " batch"],
        state: FusedTop,
        *,
        labels: Int64[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, "batch D"], FusedTop]:
        """As `WaveformLM.step`, but with what enters the last norm in place of logits: see `drawn_by`.

        The state that comes back lies in the memory of the one that was given.
        """
        source = Source(tokens=tokens, labels=labels, embeddings=self._embeddings, classes=self._classes)
        return state.hidden, state._replace(level=self._level.step(source, state.level, state.hidden))

    def logits(self, hidden: Float[Tensor, "batch D"]) -> Float[Tensor, "batch vocab"]:
        """Logits of the next code after `step`."""
        return head_triton(self._head, hidden)[:, : self._vocab]

    def drawn_by(self, drawing: Drawing) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """What a drawing makes of the result of `step`: one launch, if only its temperature is set."""
        if drawing.guided or drawing.top_k is not None or drawing.top_p is not None:
            return lambda hidden, number: drawing(self.logits(hidden), number)
        return lambda hidden, number: draw_triton(self._head, hidden, number, drawing.temperature, LARGEST)

    def advance(self, drawing: Drawing) -> Advance:
        """`stepwise`, with nothing left at work at its end."""
        step = stepwise(self, self.drawn_by(drawing))

        def advance(place: Place, uniform: Float[Tensor, "clips samples"]) -> tuple[Place, Drawn]:
            place, drawn = step(place, uniform)
            return place._replace(state=self.settle(place.state)), drawn

        return advance

    def settle(self, state: FusedTop) -> FusedTop:
        """Wait for all levels."""
        return state._replace(level=self._level.settle(state.level))


class _Level:
    """A `Level` of the network, or its centre."""

    def __init__(self, level: Any, eps: float) -> None:
        self._is_centre = not hasattr(level, "pool")
        self.up = _packed_stage(level.layers if self._is_centre else level.up, eps)
        self._stream: torch.cuda.Stream | None = None
        if self._is_centre:
            return
        self._down = _packed_stage(level.down, eps)
        self._below = _Level(level.below, eps)
        self._pool: int = level.pool.pool
        self._slots = filled_up(self._pool, 1)
        width, D, below = self.up.sizes.width, self.up.sizes.D, self._below.up.sizes
        down, up = level.pool.down_proj, level.pool.up_proj
        weight = padded(down.weight.unflatten(1, (self._pool, width)), below.width, self._slots, D).flatten(1)
        self._into = pack_linear(weight, down.bias, below.D, self._slots * D)
        weight = padded(up.weight.unflatten(0, (self._pool, width)), self._slots, D, below.width)
        bias = padded(up.bias.unflatten(0, (self._pool, width)), self._slots, D)
        self._out_of = pack_linear(weight.flatten(0, 1), bias.flatten(), self._slots * D, below.D)

    def state(self, state: Any) -> Any:
        if self._is_centre:
            return _filled(self.up, state.layers)
        D, rows, phase = self.up.sizes.D, *state.waiting.shape[:2]
        entry = state.rising.new_zeros(rows, self._below.up.sizes.D)
        waiting, rising = (padded(part, rows, self._slots, D) for part in (state.waiting, state.rising))
        return FusedState(
            phase=phase,
            pending=False,
            down=_filled(self._down, state.down),
            waiting=waiting,
            entry=entry,
            below=self._below.state(state.below),
            answer=torch.zeros_like(entry),
            rising=rising.contiguous(),
            up=_filled(self.up, state.up),
        )

    def step(self, source: Source, state: Any, out: Tensor) -> Any:
        if self._is_centre:
            step_stage_triton(self.up, state, source, out, residual=True)
            return state
        phase, waiting = state.phase, state.waiting
        step_stage_triton(self._down, state.down, source, waiting[:, phase])
        state = self._heard(state)
        whole = phase + 1 == self._pool
        if whole:
            linear_triton(waiting.flatten(1), self._into, state.entry)
            with self._beside(state.entry):
                below = self._below.step(Source(state.entry), state.below, state.answer)
            state = state._replace(below=below, pending=True)
        source = Source(waiting[:, phase], state.rising[:, phase])
        step_stage_triton(self.up, state.up, source, out, state.down.entered)
        return state._replace(phase=0 if whole else phase + 1)

    def settle(self, state: Any) -> Any:
        if self._is_centre:
            return state
        with torch.cuda.stream(self._stream if state.pending else None):
            state = state._replace(below=self._below.settle(state.below))
        return self._heard(state)

    def _heard(self, state: FusedState) -> FusedState:
        """The level below is done, and what it made is there for the group that begins."""
        if not state.pending:
            return state
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
        linear_triton(state.answer, self._out_of, state.rising.flatten(1))
        return state._replace(pending=False)

    def _beside(self, tensor: Tensor) -> Any:
        """On the stream of the level below, after all that was launched so far."""
        if tensor.device.type == "cuda":
            self._stream = self._stream or torch.cuda.Stream(tensor.device)
            self._stream.wait_stream(torch.cuda.current_stream())
        return torch.cuda.stream(self._stream)


def _packed_stage(layers: nn.ModuleList, eps: float) -> Any:
    return pack_stage_triton([weights_of(layer) for layer in layers], eps)


def _filled(stage: Any, layers: tuple[Any, ...]) -> StageMemory:
    """Memory of a stage with the states of its layers."""
    memory = stage_memory(stage, len(layers[0].conv))
    for i, layer in enumerate(layers):
        memory.conv[i, :, :, : layer.conv.shape[2]] = layer.conv
        whole = padded(layer.ssm, len(layer.ssm), stage.sizes.INNER, stage.sizes.N)
        memory.ssm[i] = whole.unflatten(2, (-1, stage.sizes.K_N)).transpose(1, 2)
    return memory


def _rows(state: Any) -> int:
    """Sequences of a state of the model."""
    layers = state.layers if hasattr(state, "layers") else state.up
    return len(layers[0].conv)


def _table(embedding: nn.Module, D: int) -> Tensor:
    weight = cast(Tensor, embedding.weight)
    return padded(weight, len(weight), D).contiguous()
