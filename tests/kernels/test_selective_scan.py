"""The selective scan: its definition, and that the compiled CPU path gives the same, gradients included."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from bioaudio_kernels import Backend, selective_scan, selective_scan_step
from hypothesis import given, settings
from scan_cases import (
    SCAN_NAMES,
    ScanCase,
    cast,
    gradients,
    random_like,
    scan_cases,
    unrolled_scan,
)
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, assert_close
from torch import Tensor

quick = settings(max_examples=20, deadline=None, derandomize=True)


@quick
@given(scan_cases(max_length=9, max_d_inner=5))
def test_reference_matches_the_sum_without_recurrence(case: ScanCase) -> None:
    arguments = case.tensors()
    y, state = selective_scan(*arguments, **case.options(), backend="reference")
    expected_y, expected_state = unrolled_scan(*arguments, **case.options())
    assert_close(y, expected_y, OUTPUT_RTOL[torch.float64], "y")
    assert_close(state, expected_state, OUTPUT_RTOL[torch.float64], "final state")


@pytest.mark.parametrize(
    "case",
    [
        ScanCase(batch=1, length=3, d_inner=2, d_state=2),
        ScanCase(batch=1, length=3, d_inner=2, d_state=1, complex=frozenset("AB"), cuts=(1,), reverse=True),
    ],
)
def test_reference_passes_gradcheck(case: ScanCase) -> None:
    def scan(*given: Any) -> tuple[Tensor, Tensor]:
        return selective_scan(*given, **case.options(), backend="reference")

    assert torch.autograd.gradcheck(scan, case.tensors())
    assert torch.autograd.gradgradcheck(scan, case.tensors(), fast_mode=True)


@quick
@given(scan_cases())
def test_cpu_matches_reference(case: ScanCase) -> None:
    exact = case.tensors()
    fast = cast(exact, torch.float32)
    expected = selective_scan(*exact, **case.options(), backend="reference")
    actual = selective_scan(*fast, **case.options(), backend="cpu")
    for name, a, e in zip(("y", "final state"), actual, expected, strict=True):
        assert_close(a, e, OUTPUT_RTOL[torch.float32], name)
    weights = random_like(expected, case.seed)
    pairs = zip(gradients(actual, fast, weights), gradients(expected, exact, weights), strict=True)
    for name, (a, e) in zip(case.present(), pairs, strict=True):
        assert_close(a, e, GRADIENT_RTOL[torch.float32], f"gradient of {name}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cpu_takes_half_precision(dtype: torch.dtype) -> None:
    half = cast(ScanCase(batch=2, length=37, d_inner=20, d_state=16).tensors(), dtype)
    exact = cast(half, torch.float64)
    y, state = selective_scan(*half, backend="cpu")
    assert (y.dtype, state.dtype) == (dtype, torch.float32)
    expected = selective_scan(*exact, backend="reference")
    assert_close(y, expected[0], OUTPUT_RTOL[dtype], "y")
    assert_close(state, expected[1], OUTPUT_RTOL[torch.float32], "final state")
    weights = [weight.to(dtype).double() for weight in random_like(expected)]
    actual = gradients((y, state), half, weights)
    for name, a, e in zip(SCAN_NAMES, actual, gradients(expected, exact, weights), strict=True):
        assert a.dtype == dtype
        assert_close(a, e, GRADIENT_RTOL[dtype], f"gradient of {name}")


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_length_zero_gives_back_the_state_and_its_gradient(backend: Backend) -> None:
    arguments = cast(ScanCase(batch=2, length=0, d_inner=5, d_state=3).tensors(), torch.float32)
    y, state = selective_scan(*arguments, backend=backend)
    assert y.shape == (2, 0, 5)
    assert torch.equal(state, arguments[-1])
    (gradient,) = torch.autograd.grad(state.sum(), arguments[-1])
    assert torch.equal(gradient, torch.ones_like(gradient))


def test_step_leaves_the_state_as_it_was() -> None:
    x, dt, A, B, C, D, z, dt_bias, state = cast(
        ScanCase(batch=1, length=1, d_inner=4, d_state=3).tensors(), torch.float32
    )
    before = state.detach().clone()
    selective_scan_step(x[:, 0], dt[:, 0], A, B[:, 0], C[:, 0], D, z[:, 0], dt_bias, state)
    assert torch.equal(state, before)


def test_no_output_depends_on_later_input() -> None:
    x, *rest = cast(ScanCase(batch=1, length=40, d_inner=9, d_state=4).tensors(), torch.float32)
    y, _ = selective_scan(x, *rest, backend="cpu")
    (gradient,) = torch.autograd.grad(y[:, 17].sum(), x)
    assert gradient[:, :18].abs().amin() > 0
    assert gradient[:, 18:].abs().amax() == 0


@pytest.mark.parametrize("turns", [0.0, 1e-6, 0.3, 1000.0])
def test_complex_states_keep_their_phase(turns: float) -> None:
    """A state that turns `turns` times a step, many or nearly none, stands where it should after 64 steps."""
    length = 64
    x = torch.zeros(1, length, 8)
    x[:, 0] = 1
    dt = torch.ones(1, length, 8)
    A = torch.full((8, 4), complex(-1e-3, 2 * math.pi * turns), dtype=torch.complex64)
    B = torch.ones(8, 4, dtype=torch.complex64)
    y, state = selective_scan(x, dt, A, B, B, dt_softplus=False, backend="cpu")
    expected = torch.exp(A[0, 0].to(torch.complex128) * torch.arange(length))
    assert_close(y[0, :, 0], 2 * 4 * expected.real, OUTPUT_RTOL[torch.float32], "y")
    assert_close(state, expected[-1].expand_as(state), OUTPUT_RTOL[torch.float32], "final state")


@pytest.mark.parametrize("rate", [1e-7, 1e-6, 1e-5, 1e-4])
def test_slow_states_keep_their_memory(rate: float) -> None:
    """A state that loses `rate` of itself a step still does so after 512 steps, gradients included."""
    length = 512
    x = torch.zeros(1, length, 8)
    x[:, 0] = 1
    dt = torch.ones(1, length, 8, requires_grad=True)
    A = torch.full((8, 4), -rate, requires_grad=True)
    ones = torch.ones(1, length, 4)
    y, state = selective_scan(x, dt, A, ones, ones, dt_softplus=False, backend="cpu")
    decay = torch.exp(-rate * torch.arange(length, dtype=torch.float64))
    assert_close(y[0, :, 0], 4 * decay, OUTPUT_RTOL[torch.float32], "y")
    (dA,) = torch.autograd.grad(state.sum(), A)
    assert_close(dA, ((length - 1) * decay[-1]).expand_as(dA), GRADIENT_RTOL[torch.float32], "gradient of A")


def test_small_step_sizes_keep_relative_accuracy() -> None:
    """softplus(-15) = 3e-7 is where log(exp(x) + 1) in float32 is wrong by 17 %."""
    dt = torch.linspace(-30, 30, 4001).reshape(-1, 1, 1)
    ones = torch.ones_like(dt)
    y, _ = selective_scan(ones, dt, torch.zeros(1, 1), ones, ones, backend="cpu")
    delta = torch.nn.functional.softplus(dt.double())
    assert ((y.double() - delta) / delta).abs().max() < OUTPUT_RTOL[torch.float32]


@pytest.mark.parametrize("poisoned", ["x", "dt", "A", "B", "C", "z", "dt_bias", "initial_state"])
def test_nan_is_never_hidden(poisoned: str) -> None:
    arguments = cast(ScanCase(batch=1, length=3, d_inner=8, d_state=2).tensors(), torch.float32)
    with torch.no_grad():
        arguments[SCAN_NAMES.index(poisoned)].fill_(float("nan"))
        y, _ = selective_scan(*arguments, backend="cpu")
    assert y.isnan().all()
