"""Inputs like a Mamba block's, and the time of each Triton scan kernel alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.testing
from bioaudio_kernels.selective_scan.triton_config import ScanConfig
from bioaudio_kernels.selective_scan.triton_launch import (
    ScanInputs,
    launch_chunk_scan,
    launch_chunk_states,
    launch_forward_sweep,
    launch_outputs,
    launch_reverse_sweep,
)
from bioaudio_kernels.selective_scan.triton_scan import allocate_segment, scan_forward
from torch import Tensor


def make_inputs(
    batch: int, d: int, length: int, n: int = 16, dtype=torch.bfloat16, state: bool = False
) -> ScanInputs:
    """Inputs as a Mamba block makes them: x and z halves of one tensor, B and C slices of x_proj's output."""
    generator = torch.Generator(device="cuda").manual_seed(0)

    def normal(*shape: int, dtype=torch.float32) -> Tensor:
        return torch.randn(*shape, device="cuda", generator=generator, dtype=dtype)

    rank = max(16, d // 32)
    xz = normal(batch, length, 2 * d, dtype=dtype)
    projected = normal(batch, length, rank + 2 * n, dtype=dtype)
    dt = normal(batch, length, d, dtype=dtype).mul_(0.5)
    step = torch.exp(torch.rand(d, device="cuda", generator=generator) * math.log(100) + math.log(1e-3))
    return ScanInputs(
        x=xz[..., :d],
        dt=dt,
        A=-torch.arange(1, n + 1, device="cuda", dtype=torch.float32).repeat(d, 1),
        B=projected[..., rank : rank + n],
        C=projected[..., rank + n :],
        D=torch.ones(d, device="cuda"),
        z=xz[..., d:],
        dt_bias=torch.log(torch.expm1(step)),
        initial_state=normal(batch, d, n) if state else None,
        dt_softplus=True,
    )


def milliseconds(run: Callable[[], Any], rep: int = 60) -> float:
    """Median over about `rep` ms of runs, the L2 cache cleared before each."""
    return triton.testing.do_bench(run, warmup=15, rep=rep, return_mode="median")


def time_kernels(inputs: ScanInputs, config: ScanConfig, only: str | None = None) -> dict[str, float]:
    """Each kernel alone: forward over the sequence, backward over one segment, scaled to the sequence."""
    batch, length, d, n = inputs.sizes
    n_chunks = triton.cdiv(length, config.chunk)
    y, final_state, states = scan_forward(inputs, config)
    sigma = torch.full((batch, n_chunks, d), 0.1, device="cuda")
    chunks = min(config.segment, n_chunks)
    segment = allocate_segment(inputs, 0, chunks, config)
    dy, dx, ddt, dz = (torch.randn_like(y) for _ in range(4))
    end = torch.empty(batch, n, d, device="cuda").mT
    runs: dict[str, tuple[Callable[[], Any], float]] = {
        "states": (lambda: launch_chunk_states(inputs, states, sigma, config), 1.0),
        "scan": (lambda: launch_chunk_scan(states, sigma, inputs.A, None, None, reverse=False), 1.0),
        "outputs": (lambda: launch_outputs(inputs, states, y, final_state, None, config), 1.0),
        "forward_sweep": (
            lambda: launch_forward_sweep(inputs, states, dy, dz, segment, config),
            n_chunks / chunks,
        ),
        "reverse_scan": (
            lambda: launch_chunk_scan(segment.adjoint, segment.sigma, inputs.A, None, end, reverse=True),
            n_chunks / chunks,
        ),
        "reverse_sweep": (
            lambda: launch_reverse_sweep(inputs, dy, dx, ddt, segment, config),
            n_chunks / chunks,
        ),
        "reduce": (lambda: (segment.dB.sum(0), segment.dC.sum(0), segment.dA.sum((0, 1))), n_chunks / chunks),
    }
    if n_chunks == 1:
        del runs["states"], runs["scan"]
    return {
        name: milliseconds(run, 25) * scale for name, (run, scale) in runs.items() if only in (None, name)
    }
