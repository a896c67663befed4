"""The lookup of vectors on Triton: on a GPU with -m gpu, or interpreted (see test_triton_interpreter.py)."""

from __future__ import annotations

import os

import pytest
import torch
from tolerances import GRADIENT_RTOL, assert_close
from torch import Tensor

pytest.importorskip("triton")

from bioaudio_kernels.embedding import triton_op
from bioaudio_kernels.embedding.triton_op import embedding_triton

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)]

on_every_device = pytest.mark.parametrize("device", DEVICES)


def table(vocab: int, width: int, device: str, dtype: torch.dtype = torch.float32) -> Tensor:
    weight = torch.randn(vocab, width, generator=torch.Generator().manual_seed(0))
    return weight.to(device, dtype).requires_grad_()


def check(tokens: Tensor, weight: Tensor) -> None:
    """Vectors as torch's, and their gradient as torch's in float64, twice the same."""
    vectors = embedding_triton(tokens, weight)
    assert torch.equal(vectors, weight[tokens.long()])
    dy = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1)).to(vectors)
    expected = torch.zeros(weight.shape, dtype=torch.float64, device=weight.device)
    expected.index_add_(0, tokens.long().flatten(), dy.double().flatten(0, -2))
    first, second = (torch.autograd.grad(embedding_triton(tokens, weight), weight, dy)[0] for _ in range(2))
    assert first.dtype == weight.dtype
    assert_close(first, expected, GRADIENT_RTOL[weight.dtype])
    assert torch.equal(first, second), "the same bits twice"


@on_every_device
@pytest.mark.parametrize(
    ("vocab", "width"), [(1, 1), (5, 24), (16, 64), (16, 100), (200, 64), (256, 24), (1000, 2)]
)
def test_vectors_and_gradients_are_torchs(vocab: int, width: int, device: str) -> None:
    tokens = torch.randint(vocab, (3, 67), generator=torch.Generator().manual_seed(2)).to(device)
    check(tokens, table(vocab, width, device))


@on_every_device
@pytest.mark.parametrize("programs", [1, 3])
@pytest.mark.parametrize("length", [1, 64, 65, 500])
def test_gradients_add_up_over_programs(
    length: int, programs: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_op, "PROGRAMS", programs)
    tokens = torch.randint(4, (length,), generator=torch.Generator().manual_seed(2)).to(device)
    check(tokens, table(16, 32, device))


@on_every_device
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("integers", [torch.int32, torch.int64])
def test_every_dtype(integers: torch.dtype, dtype: torch.dtype, device: str) -> None:
    tokens = torch.randint(200, (90,), generator=torch.Generator().manual_seed(2)).to(device, integers)
    check(tokens, table(200, 16, device, dtype))


@on_every_device
def test_strides_do_not_matter(device: str) -> None:
    tokens = torch.randint(9, (12, 7), generator=torch.Generator().manual_seed(2)).to(device)
    weight = table(9, 8, device)
    dy = torch.randn(7, 12, 8, generator=torch.Generator().manual_seed(3)).to(device)
    expected = torch.autograd.grad(embedding_triton(tokens.T.contiguous(), weight), weight, dy)[0]
    turned = dy.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(torch.autograd.grad(embedding_triton(tokens.T, weight), weight, turned)[0], expected)


@on_every_device
def test_no_tokens_give_no_vectors(device: str) -> None:
    weight = table(5, 3, device)
    vectors = embedding_triton(torch.zeros(2, 0, dtype=torch.int64, device=device), weight)
    assert vectors.shape == (2, 0, 3)
    assert torch.autograd.grad(vectors.sum(), weight)[0].count_nonzero() == 0


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@on_every_device
def test_operators_pass_opcheck(device: str) -> None:
    weight, tokens = table(5, 3, device), torch.tensor([[1, 4, 1]], device=device)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(triton_op._op, (weight, tokens), test_utils=checks)
    torch.library.opcheck(triton_op._gradient_op, (torch.ones(1, 3, 3, device=device), tokens, 5))
