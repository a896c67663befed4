"""Discretisation: against the matrix exponential and the trapezoidal rule, and where A is zero."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bioaudio_kernels import discretize_bilinear, discretize_zoh, lti_scan, selective_scan
from lti_cases import NAMES
from tolerances import OUTPUT_RTOL, assert_close
from torch import Tensor

RULES: list[Callable[..., tuple[Tensor, Tensor]]] = [discretize_zoh, discretize_bilinear]
every_rule = pytest.mark.parametrize("rule", RULES)
both_kinds = pytest.mark.parametrize("is_complex", [True, False])


def continuous_system(rng: torch.Generator, is_complex: bool) -> tuple[Tensor, Tensor, Tensor]:
    """A, B and dt of 4 channels with 3 states, dt |A| < 1."""
    dtype = torch.complex128 if is_complex else torch.float64
    A = -torch.rand(4, 3, generator=rng, dtype=torch.float64).to(dtype)
    if is_complex:
        A = A + 5j * torch.randn(4, 3, generator=rng, dtype=torch.float64)
    B = torch.randn(4, 3, generator=rng, dtype=dtype)
    return A, B, 0.01 + 0.1 * torch.rand(4, generator=rng, dtype=torch.float64)


@both_kinds
def test_zero_order_hold_is_exact_for_a_constant_input(is_complex: bool, rng: torch.Generator) -> None:
    """exp of the matrix [[A, B], [0, 0]] dt holds both the decay and B_bar."""
    A, B, dt = continuous_system(rng, is_complex)
    log_decay, B_bar = discretize_zoh(A, B, dt)
    block = torch.stack([torch.stack([A, B], -1), torch.zeros(4, 3, 2, dtype=A.dtype)], -2)
    expected = torch.linalg.matrix_exp(block * dt[:, None, None, None])
    assert_close(torch.exp(log_decay) - expected[..., 0, 0], torch.zeros_like(A), 1e-12, "decay")
    assert_close((B_bar - expected[..., 0, 1]).abs(), torch.zeros(4, 3), 1e-12, "B_bar")


@both_kinds
def test_bilinear_is_the_trapezoidal_rule(is_complex: bool, rng: torch.Generator) -> None:
    A, B, dt = continuous_system(rng, is_complex)
    log_decay, B_bar = discretize_bilinear(A, B, dt)
    h, x = torch.randn(2, 4, 3, generator=rng, dtype=torch.float64).to(A.dtype)
    after = torch.exp(log_decay) * h + B_bar * x
    slope = A * (h + after) / 2 + B * x
    assert_close((after - h - dt[:, None] * slope).abs(), torch.zeros(4, 3), 1e-12, "step")


@every_rule
@both_kinds
def test_small_steps_lose_no_digits(rule: Any, is_complex: bool, rng: torch.Generator) -> None:
    A, B, dt = continuous_system(rng, is_complex)
    A, B = (t.to(torch.complex64 if is_complex else torch.float32) for t in (A, B))
    for scale in (1.0, 1e-3, 1e-6, 1e-9):
        small = (scale * dt).float()
        exact = rule(A.to(torch.complex128 if is_complex else torch.float64), B.to(A.dtype), small.double())
        for actual, expected in zip(rule(A, B, small), exact, strict=True):
            assert ((actual - expected).abs() / expected.abs()).max() < 2e-6


@every_rule
@both_kinds
def test_a_state_without_decay_integrates(rule: Any, is_complex: bool) -> None:
    A = torch.zeros(2, 1, dtype=torch.complex64 if is_complex else torch.float32).requires_grad_()
    B = torch.ones_like(A).requires_grad_()
    dt = torch.tensor([0.1, 0.2]).requires_grad_()
    log_decay, B_bar = rule(A, B, dt)
    assert torch.equal(log_decay, torch.zeros_like(A))
    assert torch.equal(B_bar, dt[:, None].to(A.dtype))
    total = (log_decay + B_bar).real.sum()
    for gradient, expected in zip(
        torch.autograd.grad(total, (A, B, dt)), (dt + dt**2 / 2, dt, torch.ones(2)), strict=True
    ):
        assert_close(gradient.real.flatten(), expected, 1e-6, "gradient")


@every_rule
@both_kinds
def test_gradients_are_right(rule: Any, is_complex: bool, rng: torch.Generator) -> None:
    arguments = [tensor.requires_grad_() for tensor in continuous_system(rng, is_complex)]
    assert torch.autograd.gradcheck(rule, arguments)


@every_rule
def test_a_step_per_state_or_per_channel(rule: Any, rng: torch.Generator) -> None:
    A, B, dt = continuous_system(rng, True)
    for one, other in zip(rule(A, B, dt), rule(A, B, dt[:, None].expand(4, 3)), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match=r"dt has shape \(3,\), expected \(d_inner=4\)"):
        inspect.unwrap(rule)(A, B, dt[:3])


def test_a_fast_real_state_has_no_real_bilinear_decay() -> None:
    A, B, dt = torch.tensor([[-3.0]]), torch.ones(1, 1), torch.ones(1)
    assert discretize_bilinear(A, B, dt)[0].isnan().all()
    log_decay, _ = discretize_bilinear(A.to(torch.complex64), B, dt)
    assert_close(torch.exp(log_decay).real, torch.tensor([[-0.2]]), 1e-6, "decay")


@both_kinds
def test_constant_selective_scan_is_this_one(is_complex: bool, rng: torch.Generator) -> None:
    """Mamba's first-order rule with constant dt, B and C: log_decay = dt A and B_bar = dt B."""
    A, B, dt = continuous_system(rng, is_complex)
    C, D = torch.randn(4, 3, generator=rng, dtype=A.dtype), torch.randn(4, generator=rng).double()
    x = torch.randn(2, 40, 4, generator=rng, dtype=torch.float64)
    state = torch.randn(2, 4, 3, generator=rng, dtype=A.dtype)
    expected = selective_scan(x, dt, A, B, C, D, initial_state=state, dt_softplus=False, backend="reference")
    arguments = (x, dt[:, None] * A, dt[:, None] * B, C, D, state)
    assert len(arguments) == len(NAMES)
    for actual, wanted in zip(lti_scan(*arguments), expected, strict=True):
        assert_close((actual - wanted).abs(), torch.zeros(actual.shape), OUTPUT_RTOL[torch.float64], "scan")
