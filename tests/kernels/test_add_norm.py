"""The fused residual sum and norm: its definition, its gradients, and what it keeps for them."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
import torch
from bioaudio_kernels import add_layer_norm, add_rms_norm
from bioaudio_kernels.add_norm.cpu import add_norm_cpu
from bioaudio_kernels.add_norm.reference import add_norm_reference
from norm_cases import CASES, NormCase
from tolerances import OUTPUT_RTOL, assert_close
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_match_the_reference(case: NormCase) -> None:
    case.check(add_norm_cpu)


def test_reference_is_torchs_norm_of_the_sum() -> None:
    y, residual, weight = (tensor for tensor in NormCase(y=torch.float32).tensors() if tensor is not None)
    normed, total = add_rms_norm(y, residual, weight, 1e-3, backend="reference")
    assert torch.equal(total, residual + y)
    expected = torch.nn.functional.rms_norm(residual + y, weight.shape, weight, 1e-3)
    assert_close(normed, expected, OUTPUT_RTOL[torch.float32])
    double = [tensor.detach().double().requires_grad_() for tensor in (y, residual, weight)]

    def run(y: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return add_norm_reference(y, residual, weight, None, 1e-3, torch.float64)

    assert torch.autograd.gradcheck(run, double)


def test_with_a_bias_it_is_torchs_layer_norm() -> None:
    y, residual, weight, bias = NormCase(y=torch.float32, bias=True).tensors()
    assert y is not None
    assert residual is not None
    assert weight is not None
    assert bias is not None
    normed, total = add_layer_norm(y, residual, weight, bias, 1e-3, backend="reference")
    assert torch.equal(total, residual + y)
    expected = torch.nn.functional.layer_norm(residual + y, weight.shape, weight, bias, 1e-3)
    assert_close(normed, expected, OUTPUT_RTOL[torch.float32])


def test_the_backward_pass_keeps_the_sum_and_one_number_a_row() -> None:
    y, residual, weight, _ = NormCase(shape=(100, 32)).tensors()
    assert residual is not None
    assert weight is not None
    kept: list[Tensor] = []
    with saved_tensors_hooks(lambda tensor: (kept.append(tensor), tensor)[1], lambda tensor: tensor):
        normed, total = add_rms_norm(y, residual, weight, dtype=torch.bfloat16)
    assert normed.dtype == torch.bfloat16
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
    assert total.untyped_storage().data_ptr() in storages
    assert sum(storages.values()) == 4 * (100 * 32 + 100 + 32)


def test_autocast_changes_nothing() -> None:
    y, residual, weight, _ = NormCase().tensors()
    assert residual is not None
    assert weight is not None
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            normed, total = add_rms_norm(y, residual, weight)
            found.append([normed, total, *torch.autograd.grad(normed.square().sum(), [residual, weight])])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_no_rows_give_no_rows() -> None:
    normed, total = add_rms_norm(torch.ones(2, 0, 8), torch.ones(2, 0, 8), torch.ones(8))
    assert normed.shape == total.shape == (2, 0, 8)


@pytest.mark.parametrize(
    ("y", "residual", "weight", "complaint"),
    [
        (torch.ones(2, 8), torch.ones(3, 8), torch.ones(8), r"y has shape \(2, 8\), expected \(3, 8\)"),
        (None, torch.ones(3, 8), torch.ones(9), r"residual has shape \(3, 8\), weight \(9,\)"),
        (None, torch.ones(3, 8).bfloat16(), torch.ones(8), "the stream is kept in float32"),
        (torch.ones(3, 8).int(), torch.ones(3, 8), torch.ones(8), "y is int32"),
    ],
)
def test_wrong_inputs_end_in_a_sentence(
    y: Tensor | None, residual: Tensor, weight: Tensor, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        inspect.unwrap(add_rms_norm)(y, residual, weight)


COMPILED = """
import torch
from bioaudio_kernels import add_rms_norm

def run(y, residual, weight):
    normed, total = add_rms_norm(y, residual, weight, dtype=torch.bfloat16)
    return normed.float().sum() + total.square().sum()

tensors = [torch.randn(*shape).requires_grad_() for shape in ((4, 16), (4, 16), (16,))]
expected = torch.autograd.grad(run(*tensors), tensors)
compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
for one, other in zip(torch.autograd.grad(compiled(*tensors), tensors), expected):
    torch.testing.assert_close(one, other)
"""


def test_it_is_one_node_of_a_compiled_graph() -> None:
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
