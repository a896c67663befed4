"""The time-invariant scan as a citizen of torch: operators, compilation, memory, and what it refuses."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from bioaudio_kernels import lti_scan, lti_step
from bioaudio_kernels.lti_scan import Method
from lti_cases import NAMES, LtiCase, cast


@pytest.mark.parametrize("is_complex", [True, False])
def test_operators_pass_opcheck(is_complex: bool) -> None:
    """Schema, fake tensors and autograd registration, as torch.compile relies on them."""
    from bioaudio_kernels.lti_scan import chunks, long_convolution  # noqa: F401  (registers the operators)

    case = LtiCase(batch=2, length=21, d_inner=3, d_state=2, complex_decay=is_complex)
    x, *system, state = cast(case.tensors(), torch.float32)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    forward, backward = torch.ops.bioaudio.lti_chunks.default, torch.ops.bioaudio.lti_chunks_backward.default
    torch.library.opcheck(forward, (x, *system, state, 8, "cpu"), test_utils=checks)
    with torch.no_grad():
        y, end, starts = forward(x, *system, state, 8, "cpu")
        given = [tensor.detach() for tensor in (y, end, x, *system, starts)]
        torch.library.opcheck(backward, (*given, 8, "cpu"), test_utils=checks)
    kernel = torch.randn(3, 21, requires_grad=True)
    torch.library.opcheck(long_convolution._convolve, (x, kernel, None), test_utils=checks)
    backward = (x.detach(), x.detach(), kernel.detach())
    torch.library.opcheck(long_convolution._convolve_backward, backward, test_utils=checks)


def test_compiles_into_one_graph() -> None:
    """In a process of its own, without the run-time type checks, which torch.compile cannot trace."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# "aot_eager" traces forward and backward but needs no C++ compiler.
COMPILED = """
import torch
from bioaudio_kernels import discretize_zoh, lti_scan, lti_step

def block(x, A, B, C, D, dt, method):
    log_decay, B = discretize_zoh(A, B, dt)
    y, state = lti_scan(x, log_decay, B, C, D, method=method)
    return y, lti_step(y[:, -1], log_decay, B, C, D, state)[1].abs()

shapes = [(2, 50, 6), (6, 3), (6, 3), (6, 3), (6,), (6,)]
real = [torch.rand(shape) for shape in shapes]
real[1] = -real[1]
for is_complex, method in ((False, "chunks"), (True, "chunks"), (True, "fft")):
    arguments = [t + 1j * t if is_complex and t.shape == (6, 3) else t.clone() for t in real]
    arguments = [t.requires_grad_() for t in arguments]
    expected = block(*arguments, method)
    actual = torch.compile(block, fullgraph=True, backend="aot_eager")(*arguments, method)
    for a, e in zip(actual, expected):
        torch.testing.assert_close(a, e)
        pair = [torch.autograd.grad(y.sum(), arguments, retain_graph=True) for y in (a, e)]
        for slope, wanted in zip(*pair):
            torch.testing.assert_close(slope, wanted, rtol=1e-4, atol=1e-4)
"""


@pytest.mark.parametrize("method", ["chunks", "fft"])
def test_nothing_of_length_times_state_is_allocated(method: Method) -> None:
    """At 64 complex states, forward and backward together allocate less than one (B, L, D, N) tensor."""
    case = LtiCase(batch=1, length=16384, d_inner=8, d_state=64)
    arguments = cast(case.tensors(), torch.float32)
    with torch.profiler.profile(profile_memory=True) as profile:
        y, _ = lti_scan(*arguments, method=method)
        torch.autograd.grad(y.sum(), arguments, allow_unused=True)
    events = profile.events()
    assert events is not None
    allocated = sum(max(event.self_cpu_memory_usage, 0) for event in events)
    assert allocated < 8 * arguments[0].numel() * 64


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
