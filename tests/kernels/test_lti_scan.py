"""The time-invariant scan: its definition, and that fast methods and the step agree, gradients included."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
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
    options = (chunk,) if method == "fft" else (chunk, "cpu")
    fast = cast(exact, torch.float32)
    actual = results_and_gradients(lambda *arguments: run(*arguments, *options), fast)
    assert_same(actual, expected, torch.float32)


def test_segments_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long sequence is worked on in stretches; here they are short, and the last is part of a chunk."""
    from bioaudio_kernels.lti_scan import chunks

    case = LtiCase(batch=2, length=203, d_inner=3, d_state=4)
    expected = results_and_gradients(lti_scan, case.tensors(), backend="reference")
    monkeypatch.setattr(chunks, "SEGMENT", 2 * 3 * 40)
    fast = cast(case.tensors(), torch.float32)
    actual = results_and_gradients(lambda *arguments: lti_scan_chunks(*arguments, 8, "cpu"), fast)
    assert_same(actual, expected, torch.float32)


@pytest.mark.parametrize("method", ["auto", "chunks", "fft"])
@quick
@given(lti_cases(max_length=60), st.data())
def test_split_sequence_equals_whole(method: Method, case: LtiCase, data: st.DataObject) -> None:
    arguments = cast(case.tensors(), torch.float32)
    cuts = sorted(data.draw(st.lists(st.integers(0, case.length), max_size=3)))

    def in_parts(x: Tensor, *parameters: Any, method: Method) -> tuple[Tensor, Tensor]:
        *parameters, state = parameters
        parts = []
        for start, end in zip([0, *cuts], [*cuts, x.shape[1]], strict=True):
            y, state = lti_scan(x[:, start:end], *parameters, state, method=method)
            parts.append(y)
        return torch.cat(parts, 1), state

    whole = results_and_gradients(lti_scan, arguments, method=method)
    assert_same(results_and_gradients(in_parts, arguments, method=method), whole, torch.float32)


@every_method
@quick
@given(lti_cases(max_length=20))
def test_steps_equal_scan_and_carry_its_state(method: Method, case: LtiCase) -> None:
    x, *parameters, state = cast(case.tensors(), torch.float32)
    with torch.no_grad():
        whole, final_state = lti_scan(x, *parameters, state, method=method)
        state = torch.zeros_like(final_state) if state is None else state
        for t in range(x.shape[1]):
            y, state = lti_step(x[:, t], *parameters, state)
            assert_close(y, whole[:, t], OUTPUT_RTOL[torch.float32], f"y at step {t}")
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


@every_method
def test_compiles_into_one_graph(method: Method) -> None:
    arguments = cast(LtiCase(batch=2, length=50, d_inner=6, d_state=3).tensors(), torch.float32)
    # The annotation checks that tests hook in are not for torch.compile to trace.
    compiled = torch.compile(inspect.unwrap(lti_scan), fullgraph=True, backend="aot_eager")
    expected = results_and_gradients(lti_scan, arguments, method=method)
    for name, tensor in results_and_gradients(compiled, arguments, method=method).items():
        assert_close(tensor, expected[name], OUTPUT_RTOL[torch.float32], name)


@pytest.mark.parametrize("is_complex", [True, False])
def test_operators_pass_opcheck(is_complex: bool) -> None:
    """Schema, fake tensors and autograd registration, as torch.compile relies on them."""
    from bioaudio_kernels.lti_scan import chunks, long_convolution
    from bioaudio_kernels.lti_scan.tables import as_rows, chunk_tables

    case = LtiCase(batch=2, length=21, d_inner=3, d_state=2, complex_decay=is_complex)
    x, log_decay, B, C, D, state = cast(case.tensors(), torch.float32)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    tables = [t.detach().requires_grad_() for t in chunk_tables(log_decay, B, C, D, 8, rest=5)]
    start = as_rows(state).transpose(0, 1).detach().requires_grad_()
    torch.library.opcheck(chunks._chunks, (x, *tables, start, is_complex, "cpu"), test_utils=checks)
    with torch.no_grad():
        y, end, starts = chunks._chunks(x, *tables, start, is_complex, "cpu")
        given = [tensor.detach() for tensor in (y, end, x, *tables, starts)]
        torch.library.opcheck(chunks._chunks_backward, (*given, is_complex, "cpu"), test_utils=checks)
    kernel = torch.randn(3, 21, requires_grad=True)
    torch.library.opcheck(long_convolution._convolve, (x, kernel, None), test_utils=checks)
    backward = (x.detach(), x.detach(), kernel.detach())
    torch.library.opcheck(long_convolution._convolve_backward, backward, test_utils=checks)


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


@pytest.mark.parametrize("method", METHODS)
def test_nothing_of_length_times_state_is_allocated(method: Method) -> None:
    """At 64 complex states, forward and backward together allocate a fraction of one (B, L, D, N) tensor."""
    case = LtiCase(batch=1, length=16384, d_inner=8, d_state=64)
    arguments = cast(case.tensors(), torch.float32)
    with torch.profiler.profile(profile_memory=True) as profile:
        y, _ = lti_scan(*arguments, method=method)
        torch.autograd.grad(y.sum(), arguments, allow_unused=True)
    events = profile.events()
    assert events is not None
    allocated = sum(max(event.self_cpu_memory_usage, 0) for event in events)
    assert allocated < 8 * arguments[0].numel() * 64 / 2


@dataclass(frozen=True)
class Refused:
    """An argument that is changed, and what the error must say."""

    changes: dict[str, Any]
    message: str


REFUSED = [
    Refused({"x": torch.ones(2, 5)}, r"x has shape \(2, 5\), expected \(batch, length, d_inner\)"),
    Refused({"B": torch.ones(3, 3)}, r"B has shape \(3, 3\), expected \(d_inner=3, d_state=2\)"),
    Refused(dict.fromkeys(("log_decay", "B", "C"), torch.ones(3, 0)) | {"initial_state": None},
            r"log_decay has no states, \(d_inner, 0\); it needs at least one"),
    Refused({"x": torch.ones(2, 5, 3, dtype=torch.int64)}, "x is int64; floating-point numbers are allowed"),
    Refused({"x": torch.ones(2, 5, 3, dtype=torch.complex64)}, "x is complex64; it must be real"),
    Refused({"log_decay": -torch.ones(3, 2)}, "B is complex64; it must be real, because log_decay is real"),
    Refused({"initial_state": torch.ones(2, 3, 2)},
            "initial_state is float32; it must be complex, because log_decay is complex"),
    Refused({"method": "conv"}, "method='conv' is unknown; use one of auto, chunks, fft"),
    Refused({"method": "fft", "backend": "reference"}, "backend='reference' has no method='fft'"),
    Refused({"backend": "triton"}, "backend='triton' takes tensors on a CUDA GPU, not on cpu"),
    Refused({"D": torch.ones(3, device="meta")}, "tensors lie on cpu and meta"),
]  # fmt: skip


@pytest.mark.parametrize("refused", REFUSED, ids=lambda refused: refused.message[:30])
def test_bad_input_is_refused_in_words(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    values = cast(LtiCase(batch=2, length=5, d_inner=3, d_state=2).tensors(), torch.float32)
    arguments = dict(zip(NAMES, values, strict=True)) | refused.changes
    with pytest.raises(ValueError, match="^lti_scan: .*" + refused.message):
        inspect.unwrap(lti_scan)(**arguments)


def test_the_step_refuses_a_state_of_another_kind() -> None:
    x, *rest = cast(LtiCase(batch=2, length=5, d_inner=3, d_state=2).tensors(), torch.float32)
    with pytest.raises(ValueError, match="lti_step: state is float32; it must be complex"):
        inspect.unwrap(lti_step)(x[:, 0], *rest[:-1], rest[-1].real)
