"""The selective scan with softplus, bias, skip and gate: ours, peers', the plain reference, attention."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from bioaudio_kernels import selective_scan
from torch import Tensor

from bioaudio_recipes.bench.attention import attention_job
from bioaudio_recipes.bench.contender import BOTH, FORWARD, Contender, Job, differentiable
from bioaudio_recipes.bench.plain_transformers import modeling
from bioaudio_recipes.bench.roofline import operation_work
from bioaudio_recipes.bench.shape import Shape

Scan = Callable[..., Tensor]
EXPONENTIALS_BESIDE_DECAYS = 2
"""Of each channel and step: one in the softplus, one in the gate. Each state's decay is one more."""


class ScanInputs(NamedTuple):
    """Arguments of a scan, in the order in which ours, mamba_ssm's and transformers' take them."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    z: Tensor
    dt_bias: Tensor


def scan_inputs(shape: Shape) -> ScanInputs:
    """As a block makes them, (batch, length, ...): x and z halves of one tensor, B and C slices of another.

    A, D and the steps, log-uniform from 0.001 to 0.1, are those of a new model, in float32.
    """
    d, n, device = shape.d_inner, shape.d_state, shape.device
    rank = math.ceil(shape.d_model / 16)
    x, z = shape.normal(shape.batch, shape.length, 2 * d, key=0).chunk(2, dim=-1)
    projected = shape.normal(shape.batch, shape.length, rank + 2 * n, key=1)
    _, B, C = projected.split([rank, n, n], dim=-1)
    steps = torch.linspace(math.log(1e-3), math.log(1e-1), d, device=device).exp()
    return ScanInputs(
        x=x,
        dt=shape.normal(shape.batch, shape.length, d, key=2) / 2,
        A=-torch.arange(1.0, n + 1, device=device).repeat(d, 1),
        B=B,
        C=C,
        D=torch.ones(d, device=device),
        z=z,
        dt_bias=torch.log(torch.expm1(steps)),
    )


def scan_contenders() -> list[Contender]:
    """Ours first."""
    return [
        Contender(name="ours", prepare=_ours),
        Contender(
            name="mamba_ssm", peer="mamba_ssm", package="mamba_ssm", cuda_only=True, prepare=_mamba_ssm
        ),
        Contender(name="mambapy (pscan)", peer="mambapy", package="mambapy", is_plain=True, prepare=_mambapy),
        Contender(
            name="transformers (plain)",
            peer="transformers",
            package="transformers",
            is_plain=True,
            prepare=_transformers,
        ),
        Contender(name="reference", peer="reference", is_plain=True, prepare=_reference),
        Contender(
            name="attention (SDPA)", peer="attention", is_same=False, is_plain=True, prepare=attention_job
        ),
    ]


def _job(scan: Scan, shape: Shape) -> Job:
    """A scan that takes (batch, length, channels)."""
    inputs = ScanInputs(*(t.detach().requires_grad_() for t in scan_inputs(shape)))
    d_output = shape.normal(*inputs.x.shape, key=3)
    exponentials = inputs.x.numel() * (shape.d_state + EXPONENTIALS_BESIDE_DECAYS)
    forward, both = operation_work(inputs, d_output, exponentials)
    return differentiable(lambda: scan(*inputs), inputs, d_output, work={FORWARD: forward, BOTH: both})


def _channels_first_job(scan: Scan, shape: Shape) -> Job:
    """A scan that takes (batch, channels, length), contiguous."""
    inputs = [(t.mT if t.ndim == 3 else t).contiguous().detach().requires_grad_() for t in scan_inputs(shape)]
    d_output = shape.normal(shape.batch, shape.length, shape.d_inner, key=3).mT.contiguous()
    return differentiable(lambda: scan(*inputs), inputs, d_output, channels_first=True)


def _ours(shape: Shape) -> Job:
    return _job(lambda *inputs: selective_scan(*inputs)[0], shape)


def _reference(shape: Shape) -> Job:
    return _job(lambda *inputs: selective_scan(*inputs, backend="reference")[0], shape)


def _mamba_ssm(shape: Shape) -> Job:
    scan = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    return _channels_first_job(lambda *inputs: scan(*inputs, delta_softplus=True), shape)


def _transformers(shape: Shape) -> Job:
    scan = inspect.unwrap(modeling().mamba_selective_scan)

    def in_dtype_of_x(x: Tensor, *inputs: Tensor) -> Tensor:
        return scan(x, *inputs, delta_softplus=True).to(x.dtype)

    return _channels_first_job(in_dtype_of_x, shape)


def _mambapy(shape: Shape) -> Job:
    mambapy = importlib.import_module("mambapy.mamba")
    config = mambapy.MambaConfig(d_model=shape.d_model, n_layers=1, d_state=shape.d_state)
    scan = mambapy.MambaBlock(config).selective_scan

    def parallel_scan(
        x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, dt_bias: Tensor
    ) -> Tensor:
        y = scan(x, F.softplus(dt + dt_bias), A, B.float(), C.float(), D)
        return (y * F.silu(z)).to(x.dtype)

    return _job(parallel_scan, shape)
