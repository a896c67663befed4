"""The Triton selective scan: on a GPU with -m gpu, and on the CPU inside Triton's interpreter.

Kernels are interpreted only if TRITON_INTERPRET=1 was set before Triton was imported, so the interpreter
needs a process of its own: test_triton_interpreter.py runs this file in one.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from bioaudio_kernels.selective_scan.reference import selective_scan_reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, assert_close
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)]
EXAMPLES = 3 if INTERPRETED else 60
NAMES = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state")
IN_FLOAT32 = ("A", "D", "dt_bias", "initial_state", "final_state")

on_every_device = pytest.mark.parametrize("device", DEVICES)
several = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """torch.empty gives NaN: whatever a kernel forgets to write, or reads too early, shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def make_arguments(
    batch: int,
    length: int,
    d_inner: int,
    d_state: int,
    *,
    dtype: torch.dtype = torch.float32,
    dt_dtype: torch.dtype | None = None,
    absent: frozenset[str] = frozenset(),
    channels_first: bool = False,
    device: str,
) -> dict[str, Any]:
    """Arguments as a Mamba block makes them: x and z halves of one tensor, B and C slices of another."""
    generator = torch.Generator().manual_seed(length * 31 + d_inner)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    if channels_first:
        xz = normal(batch, 2 * d_inner, length).to(device, dtype).mT
    else:
        xz = normal(batch, length, 2 * d_inner).to(device, dtype)
    projected = normal(batch, length, 8 + 2 * d_state).to(device, dtype)
    arguments: dict[str, Any] = {
        "x": xz[..., :d_inner],
        "dt": (0.7 * normal(batch, length, d_inner) - 1).to(device, dt_dtype or dtype),
        "A": -torch.exp(0.5 * normal(d_inner, d_state)).to(device),
        "B": projected[..., 8 : 8 + d_state],
        "C": projected[..., 8 + d_state :],
        "D": normal(d_inner).to(device),
        "z": xz[..., d_inner:],
        "dt_bias": (0.3 * normal(d_inner)).to(device),
        "initial_state": normal(batch, d_inner, d_state).to(device),
    }
    return {name: None if name in absent else tensor for name, tensor in arguments.items()}


def leaves(arguments: dict[str, Any], *, double: bool = False) -> dict[str, Any]:
    """The same numbers as leaves of autograd, with the strides kept."""
    made = {}
    for name, tensor in arguments.items():
        made[name] = None
        if tensor is not None:
            made[name] = (tensor.detach().double() if double else tensor.detach()).requires_grad_()
    return made


def small_config(batch: int, length: int, d_inner: int, **changes: int):
    """The built-in configuration with chunks short enough for a test to have several."""
    from bioaudio_kernels.selective_scan.triton_config import choose_config

    if INTERPRETED:
        changes = {"chunk": 4, "sub": 2, "segment": 2, "state_unroll": 2, "output_unroll": 2} | changes
    else:
        changes = {"chunk": 64, "segment": 2} | changes
    return choose_config(batch, length, d_inner)._replace(**changes)


def results_and_gradients(function, arguments: dict[str, Any], dt_softplus: bool, *, double: bool, **options):
    """y, the final state and every gradient, from fixed random gradients of both."""
    made = leaves(arguments, double=double)
    y, final_state = function(*made.values(), dt_softplus, **options)
    generator = torch.Generator().manual_seed(7)
    dy = torch.randn(y.shape, generator=generator).to(arguments["x"].dtype).to(y)
    d_final = torch.randn(final_state.shape, generator=generator).to(final_state)
    present = {name: tensor for name, tensor in made.items() if tensor is not None}
    gradients = torch.autograd.grad([y, final_state], list(present.values()), [dy, d_final])
    return {"y": y, "final_state": final_state} | {
        f"d_{k}": g for k, g in zip(present, gradients, strict=True)
    }


def assert_matches_reference(arguments: dict[str, Any], dt_softplus: bool = True, **options) -> None:
    from bioaudio_kernels.selective_scan.triton_op import selective_scan_triton

    fast = results_and_gradients(selective_scan_triton, arguments, dt_softplus, double=False, **options)
    exact = results_and_gradients(selective_scan_reference, arguments, dt_softplus, double=True)
    for name, expected in exact.items():
        argument = arguments.get(name.removeprefix("d_"), arguments["x"])
        dtype = torch.float32 if name.removeprefix("d_") in IN_FLOAT32 else argument.dtype
        table = GRADIENT_RTOL if name.startswith("d_") else OUTPUT_RTOL
        assert_close(fast[name], expected, table[dtype], name)


@on_every_device
@several
@given(data=st.data())
def test_scan_and_every_gradient_match_reference(device: str, data: st.DataObject) -> None:
    sizes = (2, 10, 40, 4) if INTERPRETED else (3, 700, 200, 40)
    batch, length, d_inner, d_state = (data.draw(st.integers(1, size)) for size in sizes)
    absent = data.draw(st.frozensets(st.sampled_from(["D", "z", "dt_bias", "initial_state"])))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    arguments = make_arguments(
        batch,
        length,
        d_inner,
        d_state,
        dtype=dtype,
        dt_dtype=data.draw(st.sampled_from([dtype, torch.float32])),
        absent=absent,
        channels_first=data.draw(st.booleans()),
        device=device,
    )
    if not data.draw(st.booleans(), label="dt_softplus"):
        arguments["dt"] = arguments["dt"].abs()
        arguments["dt_bias"] = None
        assert_matches_reference(arguments, False, config=small_config(batch, length, d_inner))
    else:
        assert_matches_reference(arguments, config=small_config(batch, length, d_inner))


@on_every_device
def test_more_states_than_registers_take_several_launches(device: str) -> None:
    sizes = (1, 3, 2, 17) if INTERPRETED else (2, 300, 96, 256)
    assert_matches_reference(make_arguments(*sizes, device=device), config=small_config(*sizes[:3]))


@on_every_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_of_b_and_c_load_in_words(device: str, dtype: torch.dtype) -> None:
    """d_state a multiple of 4 and aligned rows: the path that a real model takes."""
    sizes = (1, 3, 64, 4) if INTERPRETED else (2, 500, 256, 16)
    assert_matches_reference(
        make_arguments(*sizes, dtype=dtype, device=device), config=small_config(*sizes[:3])
    )


@on_every_device
def test_built_in_configuration_matches_reference(device: str) -> None:
    sizes = (1, 3, 2, 2) if INTERPRETED else (2, 1500, 192, 16)
    assert_matches_reference(make_arguments(*sizes, device=device))


@on_every_device
def test_splits_with_carried_state_equal_one_pass(device: str) -> None:
    from bioaudio_kernels.selective_scan.triton_op import selective_scan_triton

    sizes = (1, 9, 3, 2) if INTERPRETED else (2, 1000, 96, 16)
    arguments = make_arguments(*sizes, device=device)
    config = small_config(*sizes[:3])
    whole, final_state = selective_scan_triton(*arguments.values(), config=config)
    cuts = [0, 1, 6, 9] if INTERPRETED else [0, 1, 500, 563, 1000]
    state, parts = arguments["initial_state"], []
    for start, stop in pairwise(cuts):
        part = {k: v[:, start:stop] if k in ("x", "dt", "B", "C", "z") else v for k, v in arguments.items()}
        part["initial_state"] = state
        y, state = selective_scan_triton(*part.values(), config=config)
        parts.append(y)
    assert_close(torch.cat(parts, 1), whole, OUTPUT_RTOL[torch.float32], "y")
    assert_close(state, final_state, OUTPUT_RTOL[torch.float32], "final_state")


@on_every_device
def test_steps_equal_scan(device: str) -> None:
    from bioaudio_kernels.selective_scan.triton_op import selective_scan_step_triton, selective_scan_triton

    arguments = make_arguments(1, 4, 3, 2, device=device)
    whole, final_state = selective_scan_triton(*arguments.values())
    state = arguments["initial_state"]
    for t in range(4):
        now = {k: v[:, t] if k in ("x", "dt", "B", "C", "z") else v for k, v in arguments.items()}
        now["initial_state"] = state
        y, state = selective_scan_step_triton(*now.values())
        assert_close(y, whole[:, t], OUTPUT_RTOL[torch.float32], f"y at step {t}")
    assert_close(state, final_state, OUTPUT_RTOL[torch.float32], "final_state")


@on_every_device
def test_scan_gives_the_same_bits_twice(device: str) -> None:
    from bioaudio_kernels.selective_scan.triton_op import selective_scan_triton

    sizes = (1, 3, 33, 2) if INTERPRETED else (4, 3000, 300, 16)
    arguments = make_arguments(*sizes, device=device)
    config = small_config(*sizes[:3])
    first, second = (
        results_and_gradients(selective_scan_triton, arguments, True, double=False, config=config)
        for _ in range(2)
    )
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@on_every_device
def test_empty_sequence_gives_back_the_state(device: str) -> None:
    from bioaudio_kernels.selective_scan.triton_op import selective_scan_triton

    arguments = make_arguments(2, 0, 3, 2, device=device)
    y, state = selective_scan_triton(*arguments.values())
    assert y.shape == (2, 0, 3)
    assert torch.equal(state, arguments["initial_state"])


@on_every_device
def test_operator_passes_opcheck(device: str) -> None:
    """Schema, fake tensors and autograd registration, as torch.compile relies on them."""
    from bioaudio_kernels.selective_scan import triton_op

    sizes = (1, 3, 2, 1)
    arguments = leaves(make_arguments(*sizes, device=device))
    config = list(small_config(*sizes[:3], chunk=2))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(triton_op._forward, (*arguments.values(), True, config), test_utils=checks)
    with torch.no_grad():
        y, final_state, states = triton_op._forward(*arguments.values(), True, config)
        detached = [tensor.detach() for tensor in arguments.values()]
        backward_arguments = (y, final_state, *detached, states, True, config)
        torch.library.opcheck(triton_op._backward, backward_arguments, test_utils=checks)


@on_every_device
def test_compiles_into_one_graph(device: str) -> None:
    from bioaudio_kernels.selective_scan.triton_op import selective_scan_triton

    sizes = (1, 3, 4, 2) if INTERPRETED else (2, 300, 128, 16)
    arguments = make_arguments(*sizes, device=device)
    # The annotation checks that tests hook in are not for torch.compile to trace.
    function = inspect.unwrap(selective_scan_triton)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager" if INTERPRETED else "inductor")
    eager = results_and_gradients(selective_scan_triton, arguments, True, double=False)
    for name, tensor in results_and_gradients(compiled, arguments, True, double=False).items():
        assert torch.equal(tensor, eager[name]), name


@pytest.mark.gpu
def test_offsets_beyond_2_to_the_31() -> None:
    """The end of a tensor of more than 2^31 elements, against the same steps run from the carried state."""
    from bioaudio_kernels.selective_scan.triton_op import selective_scan_triton

    d_inner, length, tail = 512, 2**22 + 4096, 4096
    x = torch.randn(1, length, d_inner, device="cuda", dtype=torch.bfloat16)
    dt = torch.full((), -2.0, device="cuda", dtype=torch.bfloat16).expand_as(x)
    A = -torch.rand(d_inner, 2, device="cuda") - 0.5
    B, C = torch.randn(2, 1, length, 2, device="cuda", dtype=torch.bfloat16).unbind()
    leaf = x.requires_grad_()
    y, final_state = selective_scan_triton(leaf, dt, A, B, C)
    (gradient,) = torch.autograd.grad(final_state.sum(), leaf)
    _, state = selective_scan_triton(x[:, :-tail].detach(), dt[:, :-tail], A, B[:, :-tail], C[:, :-tail])
    last = x[:, -tail:].detach().requires_grad_()
    expected, expected_state = selective_scan_triton(
        last, dt[:, -tail:], A, B[:, -tail:], C[:, -tail:], initial_state=state
    )
    (expected_gradient,) = torch.autograd.grad(expected_state.sum(), last)
    assert_close(y[:, -tail:], expected, OUTPUT_RTOL[torch.bfloat16], "y")
    assert_close(final_state, expected_state, OUTPUT_RTOL[torch.float32], "final_state")
    assert_close(gradient[:, -tail:], expected_gradient, GRADIENT_RTOL[torch.bfloat16], "d_x")
