"""Clips out of a network, block by block of time: any length in constant memory, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map

from bioaudio_mamba import WaveformLM, with_fixed_systems
from bioaudio_recipes.cuda_graph import cuda_graph
from bioaudio_recipes.generation.compiled_network import CompiledNetwork, can_compile
from bioaudio_recipes.generation.cycle import Advance, Drawn, Place, Recorded, stepwise
from bioaudio_recipes.generation.drawing import ClipNumbers, Drawing

BLOCK = 4096
"""Samples of a clip that are in memory at once, about."""


class Sampler:
    """Draws clips from a network.

    Args:
        model: on the device where it is to run; a copy is taken.
        drawing: how a code is drawn.
        zero: the code of silence, heard before the first sample.
        seed: clip i is drawn by the random numbers of (seed, i). That makes it a function of both, but for
            the last bits of matrix products, which for some sizes depend on how many clips share a batch.
    """

    def __init__(self, model: WaveformLM, drawing: Drawing, zero: int, seed: int) -> None:
        self.model = with_fixed_systems(model).eval()
        self.drawing = drawing
        self.zero = zero
        self.seed = seed
        self.device = model.lm_head.weight.device
        config = model.config
        self.cycle = config.cycle
        grows = any(block.kind == "attention" for block in config.blocks)
        self.records = self.device.type == "cuda" and not grows
        """Whether cycles run as CUDA graphs; the state of attention has no fixed shape."""
        self._recorded: dict[int, Recorded] = {}
        """By the number of clips side by side."""

    @cached_property
    def _compiled(self) -> CompiledNetwork:
        return CompiledNetwork(self.model)

    @cached_property
    def _fused(self) -> Any:
        """A `FusedNetwork`, or None; its module needs Triton, which a machine without a GPU may lack."""
        if self.device.type != "cuda":
            return None
        from bioaudio_recipes.generation.fused_network import FusedNetwork, can_fuse

        return FusedNetwork(self.model) if can_fuse(self.model) else None

    def _network(self, rows: int) -> Any:
        """What makes the steps of so many rows: the model itself, or a quicker form of it."""
        if not self.records and can_compile(self.model, rows):
            return self._compiled
        return self._fused or self.model

    def _advance(self, network: Any) -> Advance:
        return network.advance(self.drawing) if network is self._fused else stepwise(network, self.drawing)

    @torch.no_grad()
    def sample(
        self,
        clips: range,
        samples: int,
        labels: NDArray[np.int64] | None = None,
        prompt: NDArray[np.integer] | None = None,
    ) -> Iterator[Drawn]:
        """Yield blocks that together are `samples` samples of every clip, on the CPU.

        Args:
            clips: numbers of the clips, which are drawn side by side.
            samples: of each clip.
            labels: class of each clip (clips,), -1 for none, for a model with classes.
            prompt: codes (length,) that every clip goes on from; they are not given back.

        Raises:
            ValueError: labels are missing, not asked for or out of range, guidance is asked of a model
                without classes, or the model gives probabilities that are no numbers.
        """
        self._check(labels, len(clips))
        rows = len(clips)
        if self.drawing.guided and labels is not None:
            rows, labels = 2 * rows, np.concatenate([labels, np.full_like(labels, -1)])
        classes = None if labels is None else torch.from_numpy(labels).to(self.device)
        place = self._start(rows, classes, prompt)
        numbers = ClipNumbers(self.seed, clips)
        network = self._network(rows)
        if network is not self.model:
            place = place._replace(state=network.state(place.state))
        step = self._advance(network)
        phase = 0 if prompt is None else len(prompt) % self.cycle
        if alone := min(samples, -phase % self.cycle):
            place, drawn = step(place, numbers.next(alone).to(self.device))
            yield _to_cpu(drawn, len(clips), alone)
        advance = self._in_cycles if self.records else step
        size = max(1, BLOCK // self.cycle) * self.cycle
        left = samples - alone
        ahead = self._numbers(numbers, min(size, left))
        while left:
            wanted = min(size, left)
            left -= wanted
            place, drawn = advance(place, ahead.to(self.device))
            ahead = self._numbers(numbers, min(size, left))  # while the device is at work
            yield _to_cpu(drawn, len(clips), wanted)

    def _check(self, labels: NDArray[np.int64] | None, clips: int) -> None:
        known = self.model.config.n_classes
        if (labels is None) != (known == 0):
            state = "missing" if labels is None else "given"
            raise ValueError(f"labels are {state}, but the model has n_classes = {known}")
        if labels is not None and (len(labels) != clips or labels.min() < -1 or labels.max() >= known):
            raise ValueError(f"labels must be one for each of {clips} clips, from -1 to {known - 1}")
        if self.drawing.guided and not known:
            raise ValueError("guidance is between labels and none, but the model has no classes")

    def _numbers(self, numbers: ClipNumbers, wanted: int) -> Tensor:
        """Random numbers for a block; recorded cycles are whole."""
        return numbers.next(-(-wanted // self.cycle) * self.cycle if self.records else wanted)

    def _start(self, rows: int, labels: Tensor | None, prompt: NDArray[np.integer] | None) -> Place:
        zero = torch.full((rows,), self.zero, device=self.device)
        if prompt is None:
            return Place(zero, self.model.initial_state(rows), labels)
        codes = torch.from_numpy(prompt.astype(np.int64))
        heard = torch.cat([zero[:1].cpu(), codes[:-1]]).expand(rows if labels is not None else 1, -1)
        options: dict[str, Any] = {} if labels is None else {"labels": labels}
        state: Any = self.model.prefill(heard, **options)[1]
        if labels is None:
            state = tree_map(lambda part: part.expand(rows, *part.shape[1:]).contiguous(), state)
        return Place(torch.full_like(zero, int(codes[-1])), state, labels)

    def _in_cycles(self, place: Place, uniform: Tensor) -> tuple[Place, Drawn]:
        """Whole cycles, one launch of a CUDA graph each."""
        if len(uniform) not in self._recorded:
            network = self._network(len(place.code))
            self._recorded[len(uniform)] = Recorded(self._advance(network), cuda_graph)
        recorded = self._recorded[len(uniform)]
        parts = []
        for numbers in uniform.split(self.cycle, 1):
            place, drawn = recorded(place, numbers)
            parts.append(drawn)
        return place, Drawn(*(torch.cat(part, 1) for part in zip(*parts, strict=True)))


def _to_cpu(drawn: Drawn, clips: int, samples: int) -> Drawn:
    """What was wanted of it: of guided clips the rows with their labels."""
    here = Drawn(*(part[:clips, :samples].cpu() for part in drawn))
    if not here.log_p.isfinite().all():
        raise ValueError("the model gives probabilities that are no numbers; are its weights?")
    return here
