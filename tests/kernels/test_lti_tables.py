"""The tables of the chunked scan: gradients written by hand, and kernels that Triton can compile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bioaudio_kernels.lti_scan.tables import TableGradients, chunk_tables, chunk_tables_backward
from lti_cases import LtiCase
from tolerances import GRADIENT_RTOL, assert_close


@pytest.mark.parametrize("is_complex", [True, False])
@pytest.mark.parametrize("rest", [0, 3])
def test_gradients_by_hand_are_those_of_autograd(is_complex: bool, rest: int) -> None:
    case = LtiCase(batch=1, length=1, d_inner=3, d_state=4, complex_decay=is_complex)
    _, log_decay, B, C, D, _ = case.tensors()
    tables = chunk_tables(log_decay, B, C, D, 8, rest, "reference")
    slopes = [torch.randn(t.shape, generator=torch.Generator().manual_seed(1)).double() for t in tables]
    # The Toeplitz matrix of the outputs stands for both.
    slopes[1][:, :8] = 0
    slopes[3] *= rest > 0
    expected = torch.autograd.grad(tables, (log_decay, B, C, D), slopes)
    rows = tables.advance.shape[1]
    gradients = TableGradients(slopes[0], slopes[1][:, -rows:], slopes[2])
    d_rest = slopes[3] if rest else None
    with torch.no_grad():
        actual = chunk_tables_backward(gradients, d_rest, log_decay, B, C, rest, "reference")
    for name, ours, wanted in zip(("log_decay", "B", "C", "D"), actual, expected, strict=True):
        assert_close(ours, wanted, GRADIENT_RTOL[torch.float64], name)


KERNELS = {
    "tables_kernels.tables_kernel": {"STEPS": 32, "BLOCK": 32, "ROWS": 32},
    "tables_kernels.tables_back_kernel": {"STEPS": 32, "BLOCK": 32, "ROWS": 32},
    "discretize_triton.zoh_kernel": {"BLOCK": 32},
    "discretize_triton.zoh_back_kernel": {"BLOCK": 32, "PER_STATE": False},
    "carry_kernels.carry_kernel": {"BLOCK": 32, "UNROLL": 16},
    "carry_kernels.carry_back_kernel": {"BLOCK": 32, "UNROLL": 8},
}
SIZES = ("chunk", "rest", "lanes", "batch", "chunks", "d_state", "width", "s_a", "s_b")


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compile_without_spills(name: str, tmp_path: Path) -> None:
    """Complex, for sm_90, which the interpreter does not show. Sines of large numbers may use the stack."""
    pytest.importorskip("triton")
    from importlib import import_module

    from machine_code import compile_kernel, disassemble

    module, function = name.split(".")
    kernel = getattr(import_module(f"bioaudio_kernels.lti_scan.{module}"), function)
    constants = {"COMPLEX": True} | KERNELS[name]
    arguments: dict[str, Any] = {
        argument: "i32" if argument in SIZES else "*fp32" for argument in kernel.arg_names
    }
    arguments["s_dt"] = (1, 0)
    warps = 8 if module == "tables_kernels" else 1
    code = disassemble(compile_kernel(kernel, arguments, constants, 90, num_warps=warps), tmp_path)
    assert code.registers <= 200
    if module != "discretize_triton":
        assert not code.traffic & {"LDL", "STL"}
