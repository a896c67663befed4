"""The smallest operation takes a GPU some microseconds: a narrow network is as fast as they are few."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bioaudio_mamba import WaveformLM, audio_presets

FREE = {"detach", "new_empty", "empty_like", "empty"}


class Counting(TorchDispatchMode):
    """Counts operations that write memory."""

    count = 0

    def __torch_dispatch__(self, op: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        self.count += not op.is_view and op._schema.name.removeprefix("aten::") not in FREE
        return op(*arguments, **(options or {}))


@pytest.mark.parametrize("preset", ["sashimi_tied", "mamba_s4_piano", "mamba_speech_small"])
def test_a_training_step_of_one_layer_makes_few_small_operations(preset: str) -> None:
    """Embedding, head and loss, some 40 of them, included; an operator of ours counts as one."""
    config = getattr(audio_presets, preset)()
    config = replace(config, n_layer=1, pooling=(), blocks=(config.block(0),))
    model = WaveformLM(config, torch.Generator().manual_seed(0))
    tokens = torch.randint(256, (2, 64))
    with Counting() as counting:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.nll(tokens, tokens)[0].sum()
        loss.backward()
    assert counting.count <= 110
