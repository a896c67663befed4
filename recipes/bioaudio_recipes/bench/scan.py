"""The selective scan with softplus, bias, skip and gate: ours, its peers', and the plain reference."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from bioaudio_kernels import selective_scan
from torch import Tensor

from bioaudio_recipes.bench.shape import Shape
from bioaudio_recipes.bench.timing import Contender


def scan_contenders(shape: Shape) -> list[Contender]:
    """All implementations that can be imported here; ours first."""
    x, dt, z = (shape.normal(shape.batch, shape.length, shape.d_inner, seed=seed) for seed in (0, 1, 2))
    B, C = (shape.normal(shape.batch, shape.length, shape.d_state, seed=seed) for seed in (3, 4))
    rates = torch.arange(1, shape.d_state + 1, dtype=torch.float32, device=shape.device)
    A = -rates.repeat(shape.d_inner, 1).requires_grad_()
    D = torch.ones(shape.d_inner, device=shape.device, requires_grad=True)
    # Step sizes of a new model: log-uniform from 0.001 to 0.1, before the softplus.
    steps = torch.linspace(math.log(1e-3), math.log(1e-1), shape.d_inner, device=shape.device).exp()
    dt_bias = torch.log(torch.expm1(steps)).requires_grad_()
    inputs = (x, dt, A, B, C, D, z, dt_bias)

    def contender(name: str, scan: Callable[..., Tensor]) -> Contender:
        return Contender(name=name, run=lambda: scan(*inputs), inputs=inputs)

    ours = contender("ours", lambda *given: selective_scan(*given)[0])
    reference = contender("reference", lambda *given: selective_scan(*given, backend="reference")[0])
    return [ours, *(contender(*peer) for peer in _peers(shape)), reference]


def _peers(shape: Shape) -> Iterator[tuple[str, Callable[..., Tensor]]]:
    try:
        mambapy = importlib.import_module("mambapy.mamba")
    except ImportError:
        pass
    else:
        config = mambapy.MambaConfig(d_model=shape.d_model, n_layers=1, d_state=shape.d_state)
        scan = mambapy.MambaBlock(config).selective_scan

        def parallel_scan(x, dt, A, B, C, D, z, dt_bias):
            return scan(x, F.softplus(dt + dt_bias), A, B, C, D) * F.silu(z)

        yield "mambapy (pscan)", parallel_scan
    if shape.device == "cuda":
        try:
            mamba_ssm = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
        except ImportError:
            return

        def cuda_scan(x, dt, A, B, C, D, z, dt_bias):
            x, dt, B, C, z = (tensor.mT for tensor in (x, dt, B, C, z))
            return mamba_ssm.selective_scan_fn(x, dt, A, B, C, D, z, dt_bias, delta_softplus=True).mT

        yield "mamba_ssm", cuda_scan
