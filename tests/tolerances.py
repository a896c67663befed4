"""The one table of tolerances: how far a fast result may stand from the float64 reference, per dtype.

`rtol` is relative to the largest magnitude of the reference tensor (see `assert_close`), because an element
near zero carries the rounding of its large neighbours. Never widened to make a test pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

OUTPUT_RTOL: dict[torch.dtype, float] = {
    torch.float64: 1e-12,
    torch.float32: 2e-5,
    torch.bfloat16: 1.6e-2,
    torch.float16: 2e-3,
}
GRADIENT_RTOL: dict[torch.dtype, float] = {
    torch.float64: 1e-10,
    torch.float32: 1e-4,
    torch.bfloat16: 3.2e-2,
    torch.float16: 4e-3,
}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest absolute difference over the largest magnitude of `expected` (0 / 0 counts as 0)."""
    if not expected.numel():
        return 0.0
    exact = expected.to(torch.complex128)
    difference = (actual.to(torch.complex128) - exact).abs().max().item()
    scale = exact.abs().max().item()
    return difference / scale if scale > 0 else difference


def assert_close(actual: Tensor, expected: Tensor, rtol: float, name: str = "result") -> None:
    """Fail, naming the tensor, unless `relative_error` is at most `rtol` (NaN always fails)."""
    assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)} != {tuple(expected.shape)}"
    error = relative_error(actual, expected)
    assert error <= rtol, f"{name}: relative error {error:.3g} above {rtol:.3g}"
