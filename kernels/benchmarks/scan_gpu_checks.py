"""Every form of the Triton scan: its arguments, a run of each for compute-sanitizer, and slow decays."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from bioaudio_kernels.causal_conv1d.triton_op import causal_conv1d_triton
from bioaudio_kernels.selective_scan.triton_config import choose_config
from bioaudio_kernels.selective_scan.triton_op import selective_scan_triton
from bioaudio_kernels.selective_scan.triton_step import (
    selective_scan_step_in_place,
    selective_scan_step_triton,
)
from torch import Tensor

Shape = tuple[int, int, int]
"""batch, d_inner, length"""


class Form(NamedTuple):
    """What a scan may be besides plain."""

    d_state: int = 16
    groups: int = 1
    sequences: int = 0
    """Packed one after another into one row; 0: not packed."""
    is_complex: bool = False
    is_constant: bool = False
    """Whether B and C are constant in time."""
    reverse: bool = False


FORMS = {
    "plain": Form(),
    "256 packed": Form(sequences=256),
    "4 groups": Form(groups=4),
    "constant B, C": Form(is_constant=True),
    "complex": Form(is_complex=True),
    "64 states": Form(d_state=64),
}
TINY: dict[str, tuple[Shape, torch.dtype, Form]] = {
    "dense": ((1, 128, 150), torch.bfloat16, Form()),
    "odd sizes": ((3, 37, 70), torch.float32, Form(3)),
    "two blocks of states": ((1, 33, 65), torch.float16, Form(17)),
    "reverse": ((2, 64, 130), torch.bfloat16, Form(4, reverse=True)),
    "packed": ((1, 40, 300), torch.bfloat16, Form(4, sequences=7)),
    "packed, reverse": ((1, 64, 300), torch.float32, Form(4, sequences=7, reverse=True)),
    "groups": ((2, 99, 70), torch.float32, Form(2, groups=3)),
    "complex": ((2, 40, 70), torch.float32, Form(2, is_complex=True)),
    "constant B, C": ((2, 40, 70), torch.float32, Form(3, is_constant=True)),
}


def make_scan(
    shape: Shape, form: Form, dtype: torch.dtype = torch.bfloat16, device: str = "cuda"
) -> dict[str, Any]:
    """Arguments as a Mamba block makes them: x and z halves of one tensor, B and C slices of another."""
    batch, d, length = shape
    generator = torch.Generator(device).manual_seed(0)

    def normal(*sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*sizes, device=device, generator=generator, dtype=dtype)

    xz = normal(batch, length, 2 * d, dtype=dtype)
    A = -torch.arange(1, form.d_state + 1, device=device, dtype=torch.float32).repeat(d, 1)
    if form.is_complex:
        A = torch.complex(torch.full_like(A, -0.5), math.pi * A)
    if form.is_constant:
        B, C = normal(2, d, form.d_state, dtype=A.dtype)
    else:
        rank, maps = max(16, d // 32), (2, form.groups, form.d_state)
        projected = normal(batch, length, rank + math.prod(maps), dtype=A.dtype if form.is_complex else dtype)
        B, C = projected[..., rank:].unflatten(-1, maps).unbind(2)
    dt = normal(batch, length, d, dtype=dtype).mul_(0.5)
    step = torch.exp(torch.rand(d, device=device, generator=generator) * math.log(100) + math.log(1e-3))
    borders = None
    if form.sequences:
        borders = torch.randint(length + 1, (form.sequences + 1,), device=device, generator=generator)
        borders[0], borders[1] = 0, length
        borders = borders.sort().values
    dt_bias = torch.log(torch.expm1(step))
    tensors = {"x": xz[..., :d], "dt": dt, "A": A, "B": B, "C": C, "D": normal(d), "z": xz[..., d:]}
    return tensors | {"dt_bias": dt_bias, "cu_seqlens": borders, "reverse": form.reverse}


def with_leaves(arguments: dict[str, Any]) -> tuple[dict[str, Any], list[Tensor]]:
    """The same arguments, but those that have gradients are leaves of autograd; and these leaves."""
    kept, leaves = {}, {}
    for name, value in arguments.items():
        differentiable = isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
        (leaves if differentiable else kept)[name] = value
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in leaves.items()}
    return kept | leaves, list(leaves.values())


def run_tiny_scan(name: str, device: str = "cuda") -> list[Tensor]:
    """y, the final state and every gradient of a scan in several chunks and segments."""
    (batch, d, length), dtype, form = TINY[name]
    arguments = make_scan((batch, d, length), form, dtype, device)
    A = arguments["A"]
    arguments["initial_state"] = torch.ones(form.sequences or batch, *A.shape, device=device, dtype=A.dtype)
    plain = not (form.is_complex or form.is_constant)
    config = choose_config(batch, length, d, d // form.groups, plain=plain)._replace(segment=2)
    arguments, leaves = with_leaves(arguments)
    results = selective_scan_triton(**arguments, config=config)
    return [*results, *torch.autograd.grad(results, leaves, [torch.ones_like(t) for t in results])]


def run_tiny_conv(device: str = "cuda") -> list[Tensor]:
    """A convolution of packed sequences and its gradients."""
    x = torch.randn(1, 300, 80, device=device)[..., :40].requires_grad_()
    weight = torch.randn(40, 4, device=device, requires_grad=True)
    state = torch.randn(4, 3, 40, device=device, requires_grad=True)
    borders = torch.tensor([0, 2, 2, 131, 300], device=device)
    results = causal_conv1d_triton(x, weight, None, state, "silu", borders)
    gradients = torch.autograd.grad(results, (x, weight, state), [torch.ones_like(t) for t in results])
    return [*results, *gradients]


def run_tiny_steps(device: str = "cuda") -> list[Tensor]:
    """A step into a new state, and one over the old state."""
    arguments = make_scan((3, 37, 1), Form(3), torch.float32, device)
    del arguments["cu_seqlens"], arguments["reverse"]
    arguments |= {name: arguments[name][:, 0] for name in ("x", "dt", "B", "C", "z")}
    arguments["state"] = torch.randn(3, 37, 3, device=device)
    return [*selective_scan_step_triton(**arguments), selective_scan_step_in_place(**arguments)]


def sanitize(device: str = "cuda") -> None:
    """Run every form once; without PyTorch's cache each tensor is an allocation with borders of its own."""
    os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    for name in TINY:
        run_tiny_scan(name, device)
        print("scan:", name, flush=True)
    run_tiny_conv(device)
    run_tiny_steps(device)
    if device == "cuda":
        torch.cuda.synchronize()
    print("packed convolution, steps: done", flush=True)


def slow_decays(length: int, chunks: Sequence[int], device: str = "cuda") -> list[dict[str, float]]:
    """Relative error of the rate at which a state decays over `length` steps, for tiny rates dt |A|.

    The state starts at 1 and has no input. Beside the scan: decays of each step that are exact up to their
    rounding to float32.
    """
    exponents = (-7.0, -6.5, -6.0, -5.5, -5.0, -4.5, -4.0)
    scale = 10.0 ** torch.tensor(exponents, device=device)
    rates = (scale[:, None] * torch.linspace(1.0, 1.1, 64, device=device)).flatten()
    d = rates.shape[0]
    zeros = torch.zeros(1, length, d, device=device)
    ones = torch.ones(1, length, 1, 1, device=device)
    A, state = -torch.ones(d, 1, device=device), torch.ones(1, d, 1, device=device)
    config = choose_config(1, length, d, d, plain=True)

    def worst(decay: Tensor) -> list[float]:
        """The largest error within each decade's 64 rates."""
        error = (decay.log() / (-rates.double() * length) - 1).abs()
        return error.reshape(len(exponents), -1).amax(1).tolist()

    errors = {"exact decays": worst(torch.exp(-rates.double()).float().double() ** length)}
    for chunk in chunks:
        _, final_state = selective_scan_triton(
            zeros, rates, A, ones, ones, initial_state=state, dt_softplus=False,
            config=config._replace(chunk=chunk, segment=1),
        )  # fmt: skip
        errors[f"chunks of {chunk}"] = worst(final_state[0, :, 0].double())
    columns = zip(*errors.values(), strict=True)
    return [
        {"rate": 10.0**exponent} | dict(zip(errors, column, strict=True))
        for exponent, column in zip(exponents, columns, strict=True)
    ]
