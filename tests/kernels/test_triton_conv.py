"""The Triton causal convolution: on a GPU with -m gpu, and in the interpreter (see test_triton_scan.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from bioaudio_kernels.causal_conv1d.reference import causal_conv1d_reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, assert_close
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)]

on_every_device = pytest.mark.parametrize("device", DEVICES)
several = settings(
    max_examples=6 if INTERPRETED else 80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module", autouse=True)
def _short_chunks() -> Iterator[None]:
    """Chunks of 8 steps in the interpreter, so that short sequences have several."""
    from bioaudio_kernels.causal_conv1d import triton_op

    usual = triton_op.CHUNK
    triton_op.CHUNK = 8 if INTERPRETED else usual
    yield
    triton_op.CHUNK = usual


def make_arguments(
    batch: int, length: int, channels: int, width: int, *, dtype: torch.dtype = torch.float32, device: str
) -> list[Any]:
    """x (a strided half of a tensor), weight, bias, initial state."""
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x = normal(batch, length, 2 * channels).to(device, dtype)[..., channels:]
    state = normal(batch, width - 1, channels).to(device, dtype)
    return [x, normal(channels, width).to(device), normal(channels).to(device), state]


def results_and_gradients(function, arguments: list[Any], activation: str | None, *, double: bool):
    made = [
        None if t is None else (t.detach().double() if double else t.detach()).requires_grad_()
        for t in arguments
    ]
    y, state = function(*made, activation)
    generator = torch.Generator().manual_seed(7)
    pairs = [(t, torch.randn(t.shape, generator=generator).to(arguments[0].dtype).to(t)) for t in (y, state)]
    pairs = [(t, g) for t, g in pairs if t.numel()]
    present = {
        k: t
        for k, t in zip(("x", "weight", "bias", "initial"), made, strict=True)
        if t is not None and t.numel()
    }
    gradients = torch.autograd.grad([t for t, _ in pairs], list(present.values()), [g for _, g in pairs])
    return {"y": y, "state": state} | {f"d_{k}": g for k, g in zip(present, gradients, strict=True)}


@on_every_device
@several
@given(data=st.data())
def test_conv_and_every_gradient_match_reference(device: str, data: st.DataObject) -> None:
    from bioaudio_kernels.causal_conv1d.triton_op import causal_conv1d_triton

    sizes = (2, 20, 10, 5) if INTERPRETED else (3, 900, 300, 9)
    batch, length, channels, width = (data.draw(st.integers(1, size)) for size in sizes)
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    activation = data.draw(st.sampled_from([None, "silu"]))
    arguments = make_arguments(batch, length, channels, width, dtype=dtype, device=device)
    for index in data.draw(st.sets(st.sampled_from([2, 3])), label="absent"):
        arguments[index] = None
    fast = results_and_gradients(causal_conv1d_triton, arguments, activation, double=False)
    exact = results_and_gradients(causal_conv1d_reference, arguments, activation, double=True)
    for name, expected in exact.items():
        low = name in ("y", "state", "d_x", "d_initial")
        table = GRADIENT_RTOL if name.startswith("d_") else OUTPUT_RTOL
        assert_close(fast[name], expected, table[dtype if low else torch.float32], name)


@on_every_device
def test_steps_equal_convolution(device: str) -> None:
    from bioaudio_kernels.causal_conv1d.triton_op import causal_conv1d_step_triton, causal_conv1d_triton

    x, weight, bias, state = make_arguments(2, 6, 5, 4, device=device)
    whole, final_state = causal_conv1d_triton(x, weight, bias, state, "silu")
    for t in range(6):
        y, state = causal_conv1d_step_triton(x[:, t], weight, bias, state, "silu")
        assert_close(y, whole[:, t], OUTPUT_RTOL[torch.float32], f"y at step {t}")
    assert torch.equal(state, final_state)


@on_every_device
def test_convolution_gives_the_same_bits_twice(device: str) -> None:
    from bioaudio_kernels.causal_conv1d.triton_op import causal_conv1d_triton

    arguments = make_arguments(2, 11 if INTERPRETED else 3000, 5, 4, device=device)
    first, second = (
        results_and_gradients(causal_conv1d_triton, arguments, "silu", double=False) for _ in range(2)
    )
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@on_every_device
def test_operator_passes_opcheck(device: str) -> None:
    from bioaudio_kernels.causal_conv1d import triton_op

    arguments = [t.requires_grad_() for t in make_arguments(1, 3, 2, 3, device=device)]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(triton_op._forward, (*arguments, True), test_utils=checks)
    with torch.no_grad():
        y, state = triton_op._forward(*arguments, True)
        detached = [tensor.detach() for tensor in arguments]
        torch.library.opcheck(triton_op._backward, (y, state, *detached, True), test_utils=checks)
