"""The scan's step on Triton: on a GPU with -m gpu, and on the CPU inside Triton's interpreter.

test_triton_interpreter.py says how the interpreter gets a process of its own.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from bioaudio_kernels.selective_scan.reference import selective_scan_step_reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, assert_close
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)]
NAMES = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "state")
FORMS = ("shared", "groups of 2", "groups of 3", "constant")
SINGLE, DOUBLE = OUTPUT_RTOL[torch.float32], OUTPUT_RTOL[torch.float64]

on_every_device = pytest.mark.parametrize("device", DEVICES)
several = settings(
    max_examples=15 if INTERPRETED else 12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """torch.empty gives NaN: whatever the kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def step_arguments(
    batch: int = 2,
    d_inner: int = 6,
    d_state: int = 3,
    *,
    dtype: torch.dtype = torch.float32,
    forms: tuple[str, str] = ("shared", "shared"),
    complex_names: tuple[str, ...] = (),
    constant_dt: bool = False,
    absent: frozenset[str] = frozenset(),
    device: str,
) -> dict[str, Any]:
    """Arguments of `selective_scan_step`; x and z are halves of one tensor, shared maps slices of another."""
    generator = torch.Generator().manual_seed(d_inner * 31 + d_state)

    def normal(*shape: int, name: str = "") -> Tensor:
        kind = torch.complex64 if name in complex_names else torch.float32
        return torch.randn(*shape, generator=generator, dtype=kind)

    def make_map(name: str, form: str) -> Tensor:
        if form == "constant":
            return normal(1, d_inner, d_state, name=name).to(device)
        if form == "shared":
            made = normal(batch, 5 + d_state, name=name)[:, 5:]
        else:
            made = normal(batch, int(form[-1]), d_state, name=name)
        return made.to(device) if made.is_complex() else made.to(device, dtype)

    xz = normal(batch, 2 * d_inner).to(device, dtype)
    A = -torch.exp(0.5 * normal(d_inner, d_state))
    if "A" in complex_names:
        A = torch.complex(A, 3 * normal(d_inner, d_state))
    arguments = {
        "x": xz[:, :d_inner],
        "dt": (normal(d_inner) if constant_dt else normal(batch, d_inner)).to(device, dtype),
        "A": A.to(device),
        "B": make_map("B", forms[0]),
        "C": make_map("C", forms[1]),
        "D": normal(d_inner).to(device),
        "z": xz[:, d_inner:],
        "dt_bias": (0.3 * normal(d_inner)).to(device),
        "state": normal(batch, d_inner, d_state, name="A").to(device),
    }
    return {name: None if name in absent else tensor for name, tensor in arguments.items()}


def exact(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same numbers in float64 and complex128."""
    wider = {}
    for name, tensor in arguments.items():
        wider[name] = tensor
        if tensor is not None:
            wider[name] = tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
    return wider


def assert_parts_close(actual: Tensor, expected: Tensor, rtol: float, name: str) -> None:
    if expected.is_complex():
        actual, expected = torch.view_as_real(actual), torch.view_as_real(expected)
    assert_close(actual, expected, rtol, name)


@on_every_device
@several
@given(data=st.data())
def test_step_matches_reference_in_every_form(device: str, data: st.DataObject) -> None:
    from bioaudio_kernels.selective_scan.triton_step import (
        selective_scan_step_in_place,
        selective_scan_step_triton,
    )

    complex_names = data.draw(st.sampled_from([(), ("A",), ("A", "B"), ("A", "C"), ("A", "B", "C")]))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    arguments = step_arguments(
        data.draw(st.integers(1, 2)),
        6 * data.draw(st.integers(1, 2 if INTERPRETED else 40)),
        data.draw(st.integers(1, 6 if INTERPRETED else 40)),
        dtype=dtype,
        forms=(data.draw(st.sampled_from(FORMS)), data.draw(st.sampled_from(FORMS))),
        complex_names=complex_names,
        constant_dt=data.draw(st.booleans()),
        absent=data.draw(st.frozensets(st.sampled_from(["D", "z", "dt_bias"]))),
        device=device,
    )
    dt_softplus = data.draw(st.booleans())
    if not dt_softplus:
        arguments["dt"] = arguments["dt"].abs()
        arguments["dt_bias"] = None
    y, new_state = selective_scan_step_triton(*arguments.values(), dt_softplus=dt_softplus)
    expected_y, expected_state = selective_scan_step_reference(
        *exact(arguments).values(), dt_softplus=dt_softplus
    )
    assert new_state.dtype == arguments["state"].dtype
    assert_close(y, expected_y, OUTPUT_RTOL[dtype], "y")
    assert_parts_close(new_state, expected_state, SINGLE, "new state")
    *others, state = arguments.values()
    assert torch.equal(selective_scan_step_in_place(*others, state=state, dt_softplus=dt_softplus), y)
    assert torch.equal(state, new_state)


@on_every_device
@pytest.mark.parametrize("d_state", [1, 16, 64, 256])
def test_any_number_of_states_and_layout_of_the_state(device: str, d_state: int) -> None:
    """The scan's final state has its channels next to each other; the step's has its states."""
    from bioaudio_kernels.selective_scan.triton_step import selective_scan_step_triton

    arguments = step_arguments(1, 3 if INTERPRETED else 300, d_state, device=device)
    y, new_state = selective_scan_step_triton(*arguments.values())
    expected_y, expected_state = selective_scan_step_reference(*exact(arguments).values())
    assert_close(y, expected_y, SINGLE, "y")
    assert_close(new_state, expected_state, SINGLE, "new state")
    arguments["state"] = arguments["state"].mT.contiguous().mT
    y_again, state_again = selective_scan_step_triton(*arguments.values())
    assert torch.equal(y_again, y)
    assert torch.equal(state_again, new_state)
    assert state_again.is_contiguous()


@on_every_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_and_rows_of_a_larger_state(device: str, dtype: torch.dtype) -> None:
    """Heads are groups of channels; padding reads NaN here, gives 0, and touches no state."""
    from bioaudio_kernels.selective_scan.triton_step import selective_scan_step_in_place

    batch, heads, dim, n, groups = 3, 4, 5, 6, 2
    flat = step_arguments(batch, heads * dim, n, forms=("groups of 2", "groups of 2"), device=device)
    flat["state"] = flat["state"].to(dtype)
    apart = {
        name: t
        if name in ("B", "C")
        else t.unflatten(0 if name in ("A", "D", "dt_bias") else 1, (heads, dim))
        for name, t in flat.items()
    }
    assert apart["B"].shape == (batch, groups, n)
    expected_y, expected_state = selective_scan_step_reference(*exact(flat).values())
    pool = torch.full((7, heads, dim, n), 9.0, device=device, dtype=dtype)
    pool[[5, 2]] = apart["state"][[0, 2]]
    for name in ("x", "dt", "B", "C", "z"):
        apart[name] = apart[name].clone()
        apart[name][1] = torch.nan
    *others, _ = apart.values()
    rows = torch.tensor([5, -1, 2], dtype=torch.int32, device=device)
    y = selective_scan_step_in_place(*others, state=pool, state_rows=rows)
    assert torch.equal(y[1], torch.zeros_like(y[1]))
    assert_close(y.flatten(1)[[0, 2]], expected_y[[0, 2]], SINGLE, "y")
    assert_close(pool.flatten(1, 2)[[5, 2]], expected_state[[0, 2]], OUTPUT_RTOL[dtype], "state")
    assert torch.equal(pool[[0, 1, 3, 4, 6]], torch.full_like(pool[:5], 9.0))


@on_every_device
@pytest.mark.parametrize("complex_names", [(), ("A", "B", "C")])
def test_gradients_of_one_step_and_of_two(device: str, complex_names: tuple[str, ...]) -> None:
    """x passes through dt as well, so that a gradient counted twice would show; then a second derivative."""
    from bioaudio_kernels.selective_scan.triton_step import selective_scan_step_triton

    arguments = step_arguments(
        2, 6, 3, complex_names=complex_names, forms=(FORMS[1], FORMS[3]), device=device
    )

    def gradients(function: Any, given: dict[str, Any]) -> list[Tensor]:
        made = {name: tensor.detach().requires_grad_() for name, tensor in given.items()}
        inside = made | {"dt": made["dt"] + 0.5 * made["x"]}
        y, state = function(*inside.values())
        again, state = function(*(inside | {"state": state}).values())
        loss = (y * again.cos()).sum() + (state.abs() ** 2).sum()
        first = torch.autograd.grad(loss, list(made.values()), create_graph=True)
        (second,) = torch.autograd.grad((first[0] ** 2).sum(), made["dt"])
        return [*first, second]

    fast = gradients(selective_scan_step_triton, arguments)
    for name, a, e in zip(
        (*NAMES, "dt twice"), fast, gradients(selective_scan_step_reference, exact(arguments)), strict=True
    ):
        assert_parts_close(a.detach(), e.detach(), GRADIENT_RTOL[torch.float32], f"gradient of {name}")


@on_every_device
def test_steps_equal_scan(device: str) -> None:
    from bioaudio_kernels.selective_scan.triton_op import selective_scan_triton
    from bioaudio_kernels.selective_scan.triton_step import selective_scan_step_triton

    steps = [step_arguments(device=device) for _ in range(4)]
    for t, step in enumerate(steps):
        step["x"] = step["x"] + t
    constant = {name: steps[0][name] for name in ("A", "D", "dt_bias", "state")}
    whole, final_state = selective_scan_triton(
        *(constant.get(name, torch.stack([step[name] for step in steps], 1)) for name in NAMES)
    )
    state = constant["state"]
    for t, step in enumerate(steps):
        step["state"] = state
        y, state = selective_scan_step_triton(*step.values())
        assert_close(y, whole[:, t], SINGLE, f"y at step {t}")
    assert_close(state, final_state, SINGLE, "final state")


@on_every_device
def test_nothing_to_do_is_done(device: str) -> None:
    from bioaudio_kernels.selective_scan.triton_step import selective_scan_step_triton

    y, state = selective_scan_step_triton(*step_arguments(0, 6, 3, device=device).values())
    assert (y.shape, state.shape) == ((0, 6), (0, 6, 3))


@on_every_device
def test_operators_pass_opcheck(device: str) -> None:
    """Schema, fake tensors and autograd registration, as torch.compile relies on them."""
    from bioaudio_kernels.selective_scan import triton_step

    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    tensors = [tensor.detach().requires_grad_() for tensor in step_arguments(device=device).values()]
    torch.library.opcheck(triton_step._step, (*tensors, True), test_utils=checks)
    plain = [tensor.detach() for tensor in tensors]
    torch.library.opcheck(triton_step._step_in_place, (*plain, None, True), test_utils=checks)


@on_every_device
def test_training_through_steps_compiles_into_one_graph(device: str) -> None:
    from bioaudio_kernels.selective_scan import triton_step

    # The annotation checks that tests hook in are not for torch.compile to trace.
    step = inspect.unwrap(triton_step.selective_scan_step_triton)
    in_place = inspect.unwrap(triton_step.selective_scan_step_in_place)

    def run(pool: Tensor, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        *others, state = arguments
        y, state = step(*others, state)
        y, state = step(*others[:6], y, others[7], state)
        with torch.no_grad():
            z = in_place(*others, pool)
        return y + z, state

    def outcome(function: Any) -> list[Tensor]:
        arguments = step_arguments(device=device)
        leaves = [tensor.detach().requires_grad_() for tensor in arguments.values()]
        pool = arguments["state"].clone()
        y, state = function(pool, *leaves)
        return [y, state, pool, *torch.autograd.grad(y.sum() + state.square().sum(), leaves)]

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager" if INTERPRETED else "inductor")
    for actual, expected in zip(outcome(compiled), outcome(run), strict=True):
        assert_close(actual, expected, DOUBLE if INTERPRETED else SINGLE)


@pytest.mark.gpu
def test_step_replays_in_a_cuda_graph() -> None:
    from bioaudio_kernels.selective_scan.triton_step import selective_scan_step_in_place

    arguments = step_arguments(2, 96, 16, device="cuda")
    *others, state = arguments.values()
    eager = state.clone()
    outputs = [selective_scan_step_in_place(*others, state=eager) for _ in range(3)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = selective_scan_step_in_place(*others, state=state)
    for expected in outputs:
        graph.replay()
        assert torch.equal(y, expected)
    assert torch.equal(state, eager)
