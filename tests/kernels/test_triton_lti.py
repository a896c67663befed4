"""The time-invariant scan on Triton: on a GPU with -m gpu, and on the CPU inside Triton's interpreter.

Kernels are interpreted only if TRITON_INTERPRET=1 was set before Triton was imported, so the interpreter
needs a process of its own: test_triton_interpreter.py runs this file in one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from bioaudio_kernels import Backend, discretize_zoh, lti_scan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lti_cases import LtiCase, cast, lti_cases, results_and_gradients
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, assert_close
from torch import Tensor

# cuBLAS warns without it where deterministic algorithms are asked for; read before its first product.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)]

on_every_device = pytest.mark.parametrize("device", DEVICES)
several = settings(
    max_examples=4 if INTERPRETED else 40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """torch.empty gives NaN: whatever a kernel forgets to write, or reads too early, shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def assert_matches_reference(case: LtiCase, dtype: torch.dtype, device: str, **options: Any) -> None:
    exact = case.tensors(x_dtype=dtype)
    fast = [t if t is None else t.detach().to(device).requires_grad_() for t in cast(exact, dtype)]
    expected = results_and_gradients(lti_scan, exact, backend="reference")
    actual = results_and_gradients(lti_scan, fast, backend="triton", **options)
    for name, tensor in expected.items():
        table = GRADIENT_RTOL if name.startswith("d_") else OUTPUT_RTOL
        assert_close(
            actual[name].cpu(), tensor, table[dtype if name in ("y", "d_x") else torch.float32], name
        )


@on_every_device
@several
@given(
    lti_cases(max_length=20 if INTERPRETED else 700, max_d_inner=3),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_chunks_match_reference(device: str, case: LtiCase, dtype: torch.dtype) -> None:
    assert_matches_reference(case, dtype, device, method="chunks")


@pytest.mark.gpu
@pytest.mark.parametrize("is_complex", [True, False])
def test_many_chunks_match_reference(is_complex: bool) -> None:
    case = LtiCase(batch=2, length=9000, d_inner=40, d_state=32, complex_decay=is_complex)
    assert_matches_reference(case, torch.float32, "cuda", method="chunks")


@on_every_device
def test_more_chunks_than_are_loaded_together(device: str) -> None:
    """Chunks of 8 steps: 19 of them, in groups of 16, and a rest of 3 steps."""
    for is_complex in (True, False):
        case = LtiCase(batch=1, length=155, d_inner=2, d_state=3, complex_decay=is_complex)
        assert_matches_reference(case, torch.float32, device, method="chunks")


@on_every_device
def test_same_bits_twice(device: str) -> None:
    case = LtiCase(batch=2, length=100, d_inner=9, d_state=5)
    fast = [t.detach().to(device).requires_grad_() for t in cast(case.tensors(), torch.float32)]
    first, second = (results_and_gradients(lti_scan, fast, method="chunks") for _ in range(2))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@on_every_device
@pytest.mark.parametrize("is_complex", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("per_state", [True, False])
def test_zero_order_hold_keeps_its_digits(device: str, is_complex: bool, tied: bool, per_state: bool) -> None:
    """Of every number: steps from none at all, where the formula is 0 / 0, to fast ones."""
    rng = torch.Generator().manual_seed(0)
    single, double = (torch.complex64, torch.complex128) if is_complex else (torch.float32, torch.float64)
    A, B, *slopes = (torch.randn(6, 5, generator=rng, dtype=single) for _ in range(4))
    A[1, 2] = 0
    A = A[:1].expand(6, 5) if tied else A
    dt = torch.tensor([0.0, 1e-9, 1e-4, 1e-2, 0.3, 5.0])
    dt = dt[:, None] * torch.rand(6, 5, generator=rng) if per_state else dt

    def run(backend: Backend, *system: Tensor) -> tuple[Tensor, ...]:
        leaves = [tensor.detach().requires_grad_() for tensor in system]
        made = discretize_zoh(*leaves, backend=backend)
        return *made, *torch.autograd.grad(made, leaves, [slope.to(made[0]) for slope in slopes])

    expected = run("reference", A.to(double), B.to(double), dt.double())
    for actual, exact in zip(run("triton", *(t.to(device) for t in (A, B, dt))), expected, strict=True):
        assert ((actual.cpu() - exact).abs() / exact.abs().clamp(min=1e-30)).max() < 1e-5


@on_every_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layouts_change_without_loss(device: str, dtype: torch.dtype) -> None:
    """Tiles that are not full, chunks with gaps between them, sources with gaps, either direction."""
    from bioaudio_kernels.lti_scan.layout import from_channels_first, to_channels_first

    wide = torch.randn(2, 70, 90).to(device, dtype)
    for x, chunk in ((wide[..., :67], 10), (wide[:, ::2, 3:], 35), (wide[:, :, ::3], 14)):
        columns = 2 * x.shape[1] // chunk
        first = torch.full((x.shape[2], columns, chunk + 5), float("nan"), device=device)[..., 2:-3]
        back = torch.full(x.shape, float("nan"), device=device, dtype=dtype)
        to_channels_first(x, first, "triton")
        from_channels_first(first, back, "triton")
        assert torch.equal(first, x.float().permute(2, 0, 1).reshape(first.shape))
        assert torch.equal(back, x)
