"""torch.compile takes a model as one graph. In a process of its own, without the run-time type checks."""

from __future__ import annotations

import subprocess
import sys

MODEL = """
import torch
from bioaudio_mamba import CausalLM, MambaConfig

config = MambaConfig(d_model=16, n_layer=2, d_state=4, backend="reference")
model = CausalLM(config, torch.Generator().manual_seed(0))
tokens = torch.arange(8).view(2, 4)
compiled = torch.compile(model, fullgraph=True, backend="eager")
_, state = model(tokens)
assert torch.equal(compiled(tokens, state)[0], model(tokens, state)[0])
"""

CYCLE = """
import torch
from torch._dynamo.testing import CompileCounter
from bioaudio_mamba import BlockConfig, SashimiConfig, WaveformLM

outer, inner = BlockConfig(kind="mamba-s4", d_state=4), BlockConfig(complex=True, d_state=4)
centre = BlockConfig(kind="s4", d_state=4)
config = SashimiConfig(
    d_model=4, n_layer=1, pooling=(2, 2), blocks=(outer, inner, centre), vocab_size=9, backend="reference"
)
model = WaveformLM(config, torch.Generator().manual_seed(0))

def cycle(tokens, state):
    drawn = []
    for _ in range(config.cycle):
        logits, state = model.step(tokens, state)
        tokens = logits.argmax(-1)
        drawn.append(tokens)
    return torch.stack(drawn, 1), state

counter = CompileCounter()
compiled = torch.compile(cycle, fullgraph=True, backend=counter)
tokens, state = torch.zeros(2, dtype=torch.long), model.initial_state(2)
with torch.no_grad():
    expected, actual = cycle(tokens, state), compiled(tokens, state)
    for _ in range(2):
        assert torch.equal(actual[0], expected[0])
        last = expected[0][:, -1].contiguous()
        expected, actual = cycle(last, expected[1]), compiled(last, actual[1])
assert counter.frame_count == 1, counter.frame_count
"""


def test_a_model_and_a_whole_pooling_cycle_compile_to_one_graph_each() -> None:
    done = subprocess.run([sys.executable, "-c", MODEL + CYCLE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
