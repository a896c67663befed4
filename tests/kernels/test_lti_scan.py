"""The time-invariant scan: its definition, and that fast methods and the step agree, gradients included."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from bioaudio_kernels import lti_scan, lti_step
from bioaudio_kernels.lti_scan import Method
from bioaudio_kernels.lti_scan.chunks import lti_scan_chunks
from bioaudio_kernels.lti_scan.fft import lti_scan_fft
from hypothesis import given, settings
from hypothesis import strategies as st
from lti_cases import NAMES, LtiCase, cast, lti_cases, results_and_gradients
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, assert_close
from torch import Tensor

METHODS: list[Method] = ["chunks", "fft"]
quick = settings(max_examples=25, deadline=None, derandomize=True)
every_method = pytest.mark.parametrize("method", METHODS)


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Within the table; what is always float32, parameters and states, by the row of float32."""
    for name, tensor in expected.items():
        row = dtype if name in ("y", "d_x") or dtype == torch.float64 else torch.float32
        table = GRADIENT_RTOL if name.startswith("d_") else OUTPUT_RTOL
        assert_close(actual[name], tensor, table[row], name)


@quick
@given(lti_cases(max_length=20))
def test_reference_is_the_sum_over_all_earlier_inputs(case: LtiCase) -> None:
    x, log_decay, B, C, D, state = case.tensors()
    y, final_state = lti_scan(x, log_decay, B, C, D, state, backend="reference")
    t = torch.arange(x.shape[1])
    age = t[:, None] - t
    decay = torch.exp(age.clamp(min=0)[..., None, None] * log_decay)
    decay = torch.where(age[..., None, None] >= 0, decay, 0)
    h = torch.einsum("tsdn,dn,bsd->btdn", decay, B.to(decay), x.to(decay))
    if state is not None:
        h = h + torch.exp((t + 1)[:, None, None] * log_decay) * state.unsqueeze(1)
    expected = torch.einsum("btdn,dn->btd", h, C.to(h))
    expected = 2 * expected.real if case.complex_decay else expected
    assert_close(y, expected if D is None else expected + D * x, OUTPUT_RTOL[torch.float64], "y")
    assert_close(final_state, h[:, -1], OUTPUT_RTOL[torch.float64], "final state")


@every_method
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@quick
@given(lti_cases())
def test_method_matches_reference(method: Method, dtype: torch.dtype, case: LtiCase) -> None:
    exact = case.tensors(x_dtype=dtype)
    fast = cast(exact, dtype)
    expected = results_and_gradients(lti_scan, exact, backend="reference")
    assert_same(results_and_gradients(lti_scan, fast, method=method), expected, dtype)


@every_method
@quick
@given(lti_cases(max_length=300), st.integers(1, 130))
def test_any_length_of_chunks_gives_the_same(method: Method, case: LtiCase, chunk: int) -> None:
    exact = replace(case, real_maps=False).tensors()
    expected = results_and_gradients(lti_scan, exact, backend="reference")
    run = lti_scan_fft if method == "fft" else lti_scan_chunks
    options: dict[str, Any] = {"chunk": chunk} if method == "fft" else {"chunk": chunk, "backend": "cpu"}
    actual = results_and_gradients(run, cast(exact, torch.float32), **options)
    assert_same(actual, expected, torch.float32)


def test_segments_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long sequence is worked on in stretches; here they are short, and the last is part of a chunk."""
    from bioaudio_kernels.lti_scan import chunks

    case = LtiCase(batch=2, length=203, d_inner=3, d_state=4)
    expected = results_and_gradients(lti_scan, case.tensors(), backend="reference")
    monkeypatch.setattr(chunks, "SEGMENT", 2 * 3 * 40)
    fast = cast(case.tensors(), torch.float32)
    actual = results_and_gradients(lti_scan_chunks, fast, chunk=8, backend="cpu")
    assert_same(actual, expected, torch.float32)


@pytest.mark.parametrize("method", ["auto", "chunks", "fft"])
@quick
@given(lti_cases(max_length=60), st.data())
def test_split_sequence_equals_whole(method: Method, case: LtiCase, data: st.DataObject) -> None:
    arguments = cast(case.tensors(), torch.float32)
    cuts = sorted(data.draw(st.lists(st.integers(0, case.length), max_size=3)))

    def in_parts(x: Tensor, *others: Any, method: Method) -> tuple[Tensor, Tensor]:
        *parameters, state = others
        parts = []
        for start, end in zip([0, *cuts], [*cuts, x.shape[1]], strict=True):
            part: list[Any] = [x[:, start:end], *parameters, state]
            y, state = lti_scan(*part, method=method)
            parts.append(y)
        return torch.cat(parts, 1), state

    whole = results_and_gradients(lti_scan, arguments, method=method)
    assert_same(results_and_gradients(in_parts, arguments, method=method), whole, torch.float32)


@every_method
@quick
@given(lti_cases(max_length=20))
def test_steps_equal_scan_and_carry_its_state(method: Method, case: LtiCase) -> None:
    arguments = cast(case.tensors(), torch.float32)
    x, *parameters, state = arguments
    with torch.no_grad():
        whole, final_state = lti_scan(*arguments, method=method)
        state = torch.zeros_like(final_state) if state is None else state
        steps = []
        for t in range(x.shape[1]):
            now: list[Any] = [x[:, t], *parameters, state]
            y, state = lti_step(*now)
            steps.append(y)
    assert_close(torch.stack(steps, 1), whole, OUTPUT_RTOL[torch.float32], "y")
    assert_close(state, final_state, OUTPUT_RTOL[torch.float32], "final state")


@every_method
@pytest.mark.parametrize("spectrum", ["lin", "inv", "real"])
def test_long_memory_and_fast_phases_keep_their_accuracy(method: Method, spectrum: str) -> None:
    """S4D as it is initialised: dt from 1e-3 to 0.1, phases of up to 128 radians a step, 5000 steps."""
    case = LtiCase(batch=1, length=5000, d_inner=6, d_state=32, spectrum=spectrum)
    exact = case.tensors(x_dtype=torch.float32)
    expected = results_and_gradients(lti_scan, exact, backend="reference")
    actual = results_and_gradients(lti_scan, cast(exact, torch.float32), method=method)
    assert_same(actual, expected, torch.float32)


@every_method
@pytest.mark.parametrize("length", [0, 1])
def test_shortest_sequences(method: Method, length: int) -> None:
    arguments = cast(LtiCase(batch=2, length=length, d_inner=3, d_state=2).tensors(), torch.float32)
    y, state = lti_scan(*arguments, method=method)
    assert y.shape == (2, length, 3)
    if length == 0:
        assert torch.equal(state, arguments[-1])
        (gradient,) = torch.autograd.grad(state.real.sum(), arguments[-1])
        assert torch.equal(gradient, torch.ones_like(gradient))


@every_method
def test_the_past_does_not_see_the_future(method: Method) -> None:
    arguments = cast(LtiCase(batch=1, length=70, d_inner=2, d_state=3).tensors(), torch.float32)
    y, _ = lti_scan(*arguments, method=method)
    (gradient,) = torch.autograd.grad(y[:, 40].sum(), arguments[0])
    rounding = 0 if method == "chunks" else 1e-6 * gradient.abs().max()
    assert gradient[:, 41:].abs().max() <= rounding


@every_method
def test_same_bits_twice_for_any_number_of_threads(method: Method) -> None:
    arguments = cast(LtiCase(batch=2, length=300, d_inner=20, d_state=8).tensors(), torch.float32)
    torch.set_num_threads(1)
    first = results_and_gradients(lti_scan, arguments, method=method)
    second = results_and_gradients(lti_scan, arguments, method=method)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@every_method
def test_strided_inputs_equal_contiguous_ones(method: Method) -> None:
    x, *rest = cast(LtiCase(batch=2, length=50, d_inner=6, d_state=3).tensors(), torch.float32)
    expected, _ = lti_scan(x, *rest, method=method)
    wide = torch.cat([x, torch.full_like(x, float("nan"))], -1)[..., :6]
    for strided in (wide, x.transpose(0, 1).contiguous().transpose(0, 1), x.mT.contiguous().mT):
        assert torch.equal(lti_scan(strided, *rest, method=method)[0], expected)


@pytest.mark.parametrize("name", NAMES[1:4])
def test_gradient_from_the_state_alone(name: str) -> None:
    """y is not used: its gradient is absent, not zero."""
    arguments = cast(LtiCase(batch=1, length=30, d_inner=2, d_state=3).tensors(), torch.float32)
    _, state = lti_scan(*arguments, method="chunks")
    _, expected = lti_scan(*arguments, backend="reference")
    which = arguments[NAMES.index(name)]
    (actual,) = torch.autograd.grad(state.real.sum(), which, allow_unused=True)
    (wanted,) = torch.autograd.grad(expected.real.sum(), which, allow_unused=True)
    wanted = torch.zeros_like(which) if wanted is None else wanted
    assert_close(actual, wanted, GRADIENT_RTOL[torch.float32], name)


@every_method
def test_autocast_changes_nothing(method: Method) -> None:
    arguments = cast(LtiCase(batch=1, length=50, d_inner=2, d_state=3).tensors(), torch.float32)
    y, state = lti_scan(*arguments, method=method)
    (dx,) = torch.autograd.grad(y.sum(), arguments[0])
    with torch.autocast("cpu", torch.bfloat16):
        again, state_again = lti_scan(*arguments, method=method)
        (dx_again,) = torch.autograd.grad(again.sum(), arguments[0])
    for ours, theirs in ((again, y), (state_again, state), (dx_again, dx)):
        assert torch.equal(ours, theirs)
