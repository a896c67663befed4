"""Backends: the automatic choice, and a clear sentence when a request cannot be met."""

from __future__ import annotations

import pytest
import torch
from bioaudio_kernels import available_backends, resolve_backend
from bioaudio_kernels.shapes import check_shapes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_auto_takes_the_compiled_path_on_the_cpu(dtype: torch.dtype) -> None:
    assert resolve_backend("scan", "auto", torch.ones(1, dtype=dtype), None) == "cpu"


def test_auto_takes_the_reference_for_float64() -> None:
    assert resolve_backend("scan", "auto", torch.ones(1), torch.ones(1, dtype=torch.float64)) == "reference"


@pytest.mark.parametrize("device", ["cuda", "meta"])
def test_auto_chooses_by_device(device: str) -> None:
    tensor = torch.ones(1, device="meta")
    if device == "cuda":
        pytest.importorskip("triton")
        if not torch.cuda.is_available():
            pytest.skip("no CUDA GPU")
        assert resolve_backend("scan", "auto", torch.ones(1, device="cuda")) == "triton"
    else:
        with pytest.warns(RuntimeWarning, match="running the slow reference"):
            assert resolve_backend("scan", "auto", tensor) == "reference"


def test_a_request_that_cannot_be_met_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    single, double = torch.ones(1), torch.ones(1, dtype=torch.float64)
    for requested, tensor, reason in [
        ("numba", single, "backend='numba' is unknown; use one of auto, reference, cpu, triton"),
        ("cpu", double, "computes in float32 and cannot take float64; use backend='auto' or 'reference'"),
        ("cpu", torch.ones(1, device="meta"), "takes tensors on the CPU, not on meta"),
        ("triton", single, "takes tensors on a CUDA GPU, not on cpu"),
    ]:
        with pytest.raises(ValueError, match=r"^scan: ") as error:
            resolve_backend("scan", requested, tensor)
        assert reason in str(error.value)


def test_tensors_on_two_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="tensors lie on cpu and meta"):
        resolve_backend("scan", "auto", torch.ones(1), torch.ones(1, device="meta"))


def test_the_interpreter_lets_triton_take_cpu_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert resolve_backend("scan", "triton", torch.ones(1)) == "triton"


def test_doctor_learns_what_this_machine_has() -> None:
    reasons = available_backends()
    assert set(reasons) == {"reference", "cpu", "triton"}
    assert reasons["reference"] is None
    assert reasons["cpu"] is None


def test_a_wrong_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"scan: A has shape \(4, 2\), expected \(d_inner=3, d_state\)"):
        check_shapes(
            "scan", {"x": "batch d_inner", "A": "d_inner d_state"}, (torch.ones(2, 3), torch.ones(4, 2))
        )
