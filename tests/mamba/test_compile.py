"""torch.compile takes a model as one graph. In a process of its own, without the run-time type checks."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import torch
from bioaudio_mamba import CausalLM, MambaConfig

config = MambaConfig(d_model=16, n_layer=2, d_state=4, backend="reference")
model = CausalLM(config, torch.Generator().manual_seed(0))
tokens = torch.arange(8).view(2, 4)
compiled = torch.compile(model, fullgraph=True, backend="eager")
_, state = model(tokens)
assert torch.equal(compiled(tokens, state)[0], model(tokens, state)[0])
"""


def test_a_model_compiles_to_one_graph() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
