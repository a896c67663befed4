"""The decoding steps against the float64 reference on a GPU, and the plain-torch ones on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from bioaudio_kernels import selective_scan_step
from bioaudio_kernels.compat import causal_conv1d_update, selective_state_update
from bioaudio_kernels.selective_scan import triton_step
from bioaudio_kernels.selective_scan.reference import selective_scan_step_reference
from torch import Tensor

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from tolerances import OUTPUT_RTOL, relative_error

D_STATE, DT_RANK = 16, 32


def scan_arguments(
    batch: int, d: int, n: int = D_STATE, dtype: torch.dtype = torch.bfloat16, *, complex_A: bool = False
) -> dict[str, Any]:
    """Arguments of a Mamba block's step: x and z halves of one tensor, B and C slices of another."""
    generator = torch.Generator(device="cuda").manual_seed(batch * d)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device="cuda", generator=generator)

    xz, projected = normal(batch, 2 * d).to(dtype), normal(batch, DT_RANK + 2 * n).to(dtype)
    A, state = -torch.exp(0.5 * normal(d, n)), normal(batch, d, n)
    if complex_A:
        A, state = torch.complex(A, 3 * normal(d, n)), torch.complex(state, normal(batch, d, n))
    return {
        "x": xz[:, :d],
        "dt": (normal(batch, d) - 2).to(dtype),
        "A": A,
        "B": projected[:, DT_RANK : DT_RANK + n],
        "C": projected[:, DT_RANK + n :],
        "D": normal(d),
        "z": xz[:, d:],
        "dt_bias": 0.3 * normal(d),
        "state": state,
    }


def wide(tensor: Tensor | None) -> Tensor | None:
    if tensor is None:
        return None
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def check_scan_step() -> Iterator[dict[str, Any]]:
    """New state and in place, against float64."""
    for name, n, dtype, changes in [
        ("bf16", 16, torch.bfloat16, {}),
        ("fp32, 5 states", 5, torch.float32, {}),
        ("fp16, 256 states", 256, torch.float16, {}),
        ("no D, z, dt_bias", 16, torch.float32, {"D": None, "z": None, "dt_bias": None}),
        ("groups, constant C and dt", 16, torch.float32, {"B": (2, 4, 16), "C": (1, 96, 16), "dt": (96,)}),
        ("complex A", 16, torch.float32, None),
    ]:
        given = scan_arguments(2, 96, n, dtype, complex_A=changes is None)
        for key, change in (changes or {}).items():
            given[key] = None if change is None else torch.randn(change, device="cuda")
        y, new_state = selective_scan_step(**given)
        expected = selective_scan_step_reference(**{key: wide(tensor) for key, tensor in given.items()})
        again = triton_step.selective_scan_step_in_place(**given)
        errors = {"y": relative_error(y, expected[0])}
        for part in ("real", "imag") if new_state.is_complex() else ("real",):
            errors[part] = relative_error(getattr(new_state, part), getattr(expected[1], part))
        limits = {
            "y": OUTPUT_RTOL[dtype],
            "real": OUTPUT_RTOL[torch.float32],
            "imag": OUTPUT_RTOL[torch.float32],
        }
        same = torch.equal(again, y) and torch.equal(given["state"], new_state)
        passed = same and all(errors[key] <= limits[key] for key in errors)
        yield {"case": f"scan step, {name}", "errors": errors, "passed": passed}


def check_rows_and_heads() -> Iterator[dict[str, Any]]:
    """selective_state_update on a pool of bfloat16 states, against itself on the CPU: plain torch."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    heads = {"x": normal(3, 4, 8), "dt": normal(3, 4, 8), "A": -normal(4, 8, 16).exp(), "B": normal(3, 2, 16)}
    heads |= {"C": normal(3, 2, 16), "z": normal(3, 4, 8)}
    pool, rows = normal(6, 4, 8, 16).bfloat16(), torch.tensor([4, -1, 1])
    on_gpu, pool_on_gpu = {key: tensor.cuda() for key, tensor in heads.items()}, pool.cuda()
    expected = selective_state_update(pool, **heads, dt_softplus=True, state_batch_indices=rows)
    y = selective_state_update(pool_on_gpu, **on_gpu, dt_softplus=True, state_batch_indices=rows.cuda())
    errors = {"y": relative_error(y.cpu(), expected), "state": relative_error(pool_on_gpu.cpu(), pool)}
    passed = errors["y"] <= OUTPUT_RTOL[torch.float32] and errors["state"] <= OUTPUT_RTOL[torch.bfloat16]
    yield {"case": "state update, heads and rows", "errors": errors, "passed": passed}


def check_conv_update() -> Iterator[dict[str, Any]]:
    """causal_conv1d_update in each mode, against itself on the CPU: plain torch."""
    for name, length, columns, ring in [
        ("one step", 1, 4, False),
        ("one step, longer cache", 1, 6, False),
        ("five steps", 5, 6, False),
        ("three steps, ring", 3, 6, True),
    ]:
        generator = torch.Generator().manual_seed(length)
        x, state = (torch.randn(2, 200, size, generator=generator) for size in (length, columns))
        weight, bias = torch.randn(200, 4, generator=generator), torch.randn(200, generator=generator)
        seqlens = torch.tensor([4, 13]) if ring else None
        on_gpu = [None if t is None else t.cuda() for t in (x, state, weight, bias, seqlens)]
        y = causal_conv1d_update(*on_gpu[:4], "silu", on_gpu[4])
        expected = causal_conv1d_update(x, state, weight, bias, "silu", seqlens)
        errors = {"y": relative_error(y.cpu(), expected), "state": relative_error(on_gpu[1].cpu(), state)}
        passed = errors["y"] <= OUTPUT_RTOL[torch.float32] and errors["state"] == 0
        yield {"case": f"conv update, {name}", "errors": errors, "passed": passed}
