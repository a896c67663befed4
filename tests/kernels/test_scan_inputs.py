"""What the scan refuses: every bad argument ends in one ValueError that names it and says what is allowed."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from bioaudio_kernels import selective_scan, selective_scan_step
from bioaudio_kernels.packed import check_cu_seqlens
from scan_cases import SCAN_NAMES, ScanCase, cast

# Without the annotation checks that the tests hook in: users do not have them.
scan, step = inspect.unwrap(selective_scan), inspect.unwrap(selective_scan_step)
CASE = ScanCase(batch=2, length=7, d_inner=6, d_state=3)
ones, integers = torch.ones, torch.ones(2, 7, 6, dtype=torch.int64)


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        ("x", ones(7, 6), r"x has shape \(7, 6\), expected \(batch, length, d_inner\)"),
        ("dt", ones(5), r"dt has shape \(5,\), expected \(batch=2, length=7, d_inner=6\) or \(d_inner=6\)"),
        ("A", ones(6, 0), r"A has shape \(6, 0\), without states; d_state must be at least 1"),
        ("B", ones(2, 7, 4), r"B has shape \(2, 7, 4\), expected \(batch=2, length=7, d_state=3\) or "),
        ("B", ones(2, 7, 4, 3), "B has n_groups=4, which must divide d_inner=6"),
        ("C", ones(2, 7, 0, 3), "C has n_groups=0, which must divide d_inner=6"),
        ("C", ones(7, 3), r"C has shape \(7, 3\), expected .* or \(d_inner=6, d_state=3\)"),
        ("D", ones(6, 1), r"D has shape \(6, 1\), expected \(d_inner=6\)"),
        (
            "initial_state",
            ones(1, 6, 3),
            r"initial_state has shape \(1, 6, 3\), expected \(batch=2, d_inner",
        ),
        ("x", integers, "x is int64, allowed are float32, bfloat16, float16 and float64"),
        ("z", ones(2, 7, 6, dtype=torch.complex64), "z is complex64, allowed are float32, bfloat16, float16"),
        ("B", ones(2, 7, 3, dtype=torch.complex64), "B is complex64, but A is float32; .* it must be real"),
        ("A", ones(6, 3, dtype=torch.complex64), "initial_state is float32, but A is complex64; .* complex"),
        ("D", ones(6, device="meta"), "D lies on meta, but x lies on cpu; move them to one device"),
        (
            "x",
            ones(2, 7, 6, dtype=torch.float64),
            "backend='cpu' computes in float32 and cannot take",
        ),
    ],
)
def test_a_bad_argument_is_named(name: str, bad: torch.Tensor, message: str) -> None:
    arguments: dict[str, Any] = dict(zip(SCAN_NAMES, cast(CASE.tensors(), torch.float32), strict=True))
    if name == "A" and bad.shape[1] == 0:
        arguments |= {"B": ones(2, 7, 0), "C": ones(2, 7, 0), "initial_state": ones(2, 6, 0)}
    arguments[name] = bad
    with pytest.raises(ValueError, match=f"^selective_scan: {message}"):
        scan(**arguments, backend="cpu")


@pytest.mark.parametrize(
    ("borders", "message"),
    [
        (torch.tensor([0.0, 7.0]), "cu_seqlens is float32, allowed are int32 and int64"),
        (torch.tensor([[0, 7]]), r"cu_seqlens has shape \(1, 2\), expected \(n_sequences \+ 1,\)"),
        (torch.tensor([], dtype=torch.int64), r"cu_seqlens has shape \(0,\), expected \(n_sequences \+ 1,\)"),
        (torch.tensor([1, 7]), "cu_seqlens goes from 1 to 7, allowed is from 0 to the length 7"),
        (torch.tensor([0, 6]), "cu_seqlens goes from 0 to 6, allowed is from 0 to the length 7"),
        (
            torch.tensor([0, 3, 5, 3, 7]),
            "cu_seqlens decreases: sequence 2 has length -2, allowed is 0",
        ),
        (torch.tensor([0, 3, 7]), "initial_state holds 1 states, expected one for each of the 2 sequences"),
    ],
)
def test_bad_borders_are_named(borders: torch.Tensor, message: str) -> None:
    arguments = cast(replace(CASE, batch=1).tensors(), torch.float32)
    with pytest.raises(ValueError, match=f"^selective_scan: {message}"):
        scan(*arguments, cu_seqlens=borders)


def test_packed_rows_are_one_row() -> None:
    with pytest.raises(ValueError, match="cu_seqlens packs sequences into one row, but the batch is 2"):
        scan(*cast(CASE.tensors(), torch.float32), cu_seqlens=torch.tensor([0, 7]))


def test_borders_are_read_once_until_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, reading them waits for all work before."""
    borders = torch.tensor([0, 3, 7])
    check_cu_seqlens("scan", borders, 1, 7)
    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "tolist", lambda _: pytest.fail("read again"))
        check_cu_seqlens("scan", borders, 1, 7)
    with pytest.raises(ValueError, match="allowed is from 0 to the length 8"):
        check_cu_seqlens("scan", borders, 1, 8)
    borders[1] = 9
    with pytest.raises(ValueError, match="sequence 1 has length -2"):
        check_cu_seqlens("scan", borders, 1, 7)


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        ("x", ones(2, 1, 6), r"x has shape \(2, 1, 6\), expected \(batch, d_inner\)"),
        (
            "B",
            ones(3, 2, 3),
            r"B has shape \(3, 2, 3\), expected \(batch=2, n_groups, d_state\), or \(1, d_",
        ),
        (
            "C",
            ones(1, 2, 3),
            r"C has shape \(1, 2, 3\), expected \(batch=2, n_groups, d_state\), or \(1, d_",
        ),
        ("B", ones(2, 4, 3), "B has n_groups=4, which must divide d_inner=6"),
        ("state", ones(2, 6, 3, dtype=torch.complex64), "state is complex64, but A is float32"),
        ("dt_bias", ones(6, dtype=torch.bool), "dt_bias is bool, allowed are float32"),
    ],
)
def test_a_bad_argument_of_a_step_is_named(name: str, bad: torch.Tensor, message: str) -> None:
    arguments: dict[str, Any] = {"x": ones(2, 6), "dt": ones(6), "A": ones(6, 3), "B": ones(2, 3)}
    arguments |= {"C": ones(2, 3, 3), "D": None, "z": None, "dt_bias": None, "state": ones(2, 6, 3)}
    step(**arguments)
    with pytest.raises(ValueError, match=f"^selective_scan_step: {message}"):
        step(**arguments | {name: bad})
