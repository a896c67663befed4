"""Equalities between scans that hold in every form of the arguments: split, packed, reversed, stepped."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from bioaudio_kernels import Backend, selective_scan, selective_scan_step
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_cases import SCAN_NAMES, ScanCase, cast, gradients, random_like, scan_cases
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, assert_close
from torch import Tensor

quick = settings(max_examples=20, deadline=None, derandomize=True)
on_both_backends = pytest.mark.parametrize("backend", ["reference", "cpu"])
DTYPES = {"reference": torch.float64, "cpu": torch.float32}


def moves(case: ScanCase, name: str) -> bool:
    """Whether this argument has an axis of time."""
    return name in ("x", "z") or (name in ("dt", "B", "C") and getattr(case, name) != "constant")


def cut_out(case: ScanCase, arguments: Sequence[Any], start: int, stop: int, state: Any) -> list[Any]:
    """The arguments for steps start to stop - 1 alone, from another initial state."""
    pairs = list(zip(SCAN_NAMES, arguments, strict=True))[:-1]
    return [t[:, start:stop] if t is not None and moves(case, name) else t for name, t in pairs] + [state]


def assert_same_scan(
    case: ScanCase, arguments: Sequence[Any], actual: Sequence[Tensor], expected: Sequence[Tensor]
) -> None:
    """y, the final state and all gradients agree."""
    dtype = arguments[0].dtype
    for name, a, e in zip(("y", "final state"), actual, expected, strict=True):
        assert_close(a, e, OUTPUT_RTOL[dtype], name)
    weights = random_like(expected, case.seed)
    pairs = zip(gradients(actual, arguments, weights), gradients(expected, arguments, weights), strict=True)
    for name, (a, e) in zip(case.present(), pairs, strict=True):
        assert_close(a, e, GRADIENT_RTOL[dtype], f"gradient of {name}")


@on_both_backends
@quick
@given(scan_cases(max_length=40, max_d_inner=10, cuts=None), st.data())
def test_split_sequence_equals_whole(backend: Backend, case: ScanCase, data: st.DataObject) -> None:
    arguments = cast(case.tensors(), DTYPES[backend])
    options = case.options()
    cuts = sorted(data.draw(st.lists(st.integers(0, case.length), max_size=3)))
    spans = list(pairwise([0, *cuts, case.length]))
    parts, state = [], arguments[-1]
    for start, stop in reversed(spans) if case.reverse else spans:
        part = cut_out(case, arguments, start, stop, state)
        y, state = selective_scan(*part, **options, backend=backend)
        parts.append(y)
    y = torch.cat(parts[::-1] if case.reverse else parts, 1)
    whole = selective_scan(*arguments, **options, backend=backend)
    assert_same_scan(case, arguments, (y, state), whole)


@on_both_backends
@quick
@given(scan_cases(max_length=40, max_d_inner=20, cuts=()), st.data())
def test_packed_sequences_equal_each_alone(backend: Backend, case: ScanCase, data: st.DataObject) -> None:
    """Among them empty ones, ones of a single step, and the same borders twice."""
    cuts = sorted(data.draw(st.lists(st.integers(0, case.length), max_size=6)))
    borders = [0, *cuts, case.length]
    arguments = cast(case.tensors(), DTYPES[backend])
    if arguments[-1] is not None:
        one = arguments[-1].detach()
        arguments[-1] = torch.cat([one * (i + 1) for i in range(len(borders) - 1)]).requires_grad_()
    options = case.options() | {"cu_seqlens": None}
    alone = []
    for i, (start, stop) in enumerate(pairwise(borders)):
        state = None if arguments[-1] is None else arguments[-1][i : i + 1]
        part = cut_out(case, arguments, start, stop, state)
        alone.append(selective_scan(*part, **options, backend=backend))
    packed = selective_scan(
        *arguments, **options | {"cu_seqlens": torch.tensor(borders, dtype=torch.int32)}, backend=backend
    )
    expected = torch.cat([y for y, _ in alone], 1), torch.cat([state for _, state in alone])
    assert_same_scan(case, arguments, packed, expected)


@on_both_backends
@quick
@given(scan_cases(max_length=70, max_d_inner=20, cuts=None, reverse=False))
def test_reversed_scan_equals_flipped_arguments(backend: Backend, case: ScanCase) -> None:
    arguments = cast(case.tensors(), DTYPES[backend])
    named = zip(SCAN_NAMES, arguments, strict=True)
    flipped: list[Any] = [t.flip(1) if t is not None and moves(case, name) else t for name, t in named]
    y, state = selective_scan(*flipped, **case.options(), backend=backend)
    actual = selective_scan(*arguments, **case.options() | {"reverse": True}, backend=backend)
    assert torch.equal(actual[0], y.flip(1))
    assert torch.equal(actual[1], state)
    assert_same_scan(case, arguments, actual, (y.flip(1), state))


@on_both_backends
@quick
@given(scan_cases(max_length=12, max_d_inner=20, cuts=None, reverse=False))
def test_step_equals_scan_at_every_position(backend: Backend, case: ScanCase) -> None:
    dtype = DTYPES[backend]
    arguments = cast(case.tensors(), dtype)
    with torch.no_grad():
        whole, final_state = selective_scan(*arguments, **case.options(), backend=backend)
        state = torch.zeros_like(final_state) if arguments[-1] is None else arguments[-1]
        ys = []
        for t in range(case.length):
            given: dict[str, Any] = dict(zip(SCAN_NAMES[:-1], arguments[:-1], strict=True))
            for name, tensor in given.items():
                if tensor is not None and moves(case, name):
                    given[name] = tensor[:, t]
                elif tensor is not None and name in ("B", "C"):
                    given[name] = tensor.unsqueeze(0)
            y, state = selective_scan_step(
                **given, state=state, dt_softplus=case.dt_softplus, backend=backend
            )
            ys.append(y)
    assert_close(torch.stack(ys, 1), whole, OUTPUT_RTOL[dtype], "y")
    assert_close(state, final_state, OUTPUT_RTOL[dtype], "final state")


@quick
@given(scan_cases(max_length=20, max_d_inner=20, B="varying", C="constant", dt="constant"))
def test_constant_and_shared_arguments_equal_their_copies(case: ScanCase) -> None:
    """A B of a group for every channel, and dt and C repeated at every step, change nothing."""
    arguments = cast(case.tensors(), torch.float32)
    x, dt, A, B, C, *rest = arguments
    copies = [
        x,
        dt.expand_as(x),
        A,
        B.unsqueeze(2).expand(-1, -1, case.d_inner, -1),
        C.expand(*x.shape[:2], *C.shape),
        *rest,
    ]
    actual, expected = (
        selective_scan(*given, **case.options(), backend="cpu") for given in (arguments, copies)
    )
    assert_same_scan(case, arguments, actual, expected)
