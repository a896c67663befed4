"""torch.compile takes the drop-in functions as one graph, without the run-time type checks of the tests."""

from __future__ import annotations

import subprocess
import sys

# "aot_eager" traces forward and backward but needs no C++ compiler.
TRAINING = """
import torch
from bioaudio_kernels.compat import causal_conv1d_fn, mamba_inner_fn, selective_scan_fn

def train(x, weight, delta, A, B, C, xz, x_proj, dt_proj, out_proj):
    u, last = causal_conv1d_fn(x, weight, activation="silu", return_final_states=True)
    y, state = selective_scan_fn(u, delta, A, B, C, delta_softplus=True, return_last_state=True)
    inner = mamba_inner_fn(xz, weight[:, None], None, x_proj, dt_proj, out_proj, None, A)
    return last.sum() + y.square().sum() + state.sum() + inner.square().sum()

A = -torch.rand(6, 3)
shapes = [(2, 6, 5), (6, 4), (2, 6, 5), None, (2, 2, 3, 5), (2, 3, 5), (2, 12, 5), (8, 6), (6, 2), (4, 6)]
given = [A if shape is None else torch.randn(shape) for shape in shapes]
given = [tensor.requires_grad_() for tensor in given]
compiled = torch.compile(train, fullgraph=True, backend="aot_eager")
results = [train(*given), compiled(*given)]
assert torch.equal(*results)
for a, b in zip(*(torch.autograd.grad(result, given) for result in results), strict=True):
    assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)
"""
DECODING = """
import torch
from bioaudio_kernels.compat import causal_conv1d_update, selective_state_update

def decode(x, conv_state, weight, state, A, B):
    u = causal_conv1d_update(x, conv_state, weight, activation="silu")
    return selective_state_update(state, u, u, A, B, B, dt_softplus=True)

given = [torch.randn(shape) for shape in [(2, 6), (2, 6, 4), (6, 4), (2, 6, 3), (6, 3), (2, 3)]]
again = [tensor.clone() for tensor in given]
compiled = torch.compile(decode, fullgraph=True, backend="aot_eager")
assert torch.equal(decode(*given), compiled(*again))
assert all(torch.equal(a, b) for a, b in zip(given, again, strict=True))
"""


def run(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_training_compiles_into_one_graph() -> None:
    run(TRAINING)


def test_decoding_in_place_compiles_into_one_graph() -> None:
    run(DECODING)
