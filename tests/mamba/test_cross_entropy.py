"""Cross-entropy in pieces is cross-entropy, and keeps no logits."""

from __future__ import annotations

import pytest
import torch
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, assert_close
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from bioaudio_mamba import cross_entropy
from bioaudio_mamba.cross_entropy import linear_cross_entropy

VOCABULARY = 7


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 9, 5, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, 5, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(VOCABULARY, (2, 9), generator=generator)
    return hidden, weight, targets, torch.rand(2, 9, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("at_once", [1, 4 * VOCABULARY, 2**22])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_pieces_equal_the_whole(dtype: torch.dtype, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "LOGITS_AT_ONCE", at_once)
    hidden, weight, targets, d_nll = inputs(dtype)
    nll = linear_cross_entropy(hidden, weight, targets)
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    logits = exact[0] @ exact[1].mT
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    assert nll.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_close(nll, expected.view(2, 9), OUTPUT_RTOL[dtype], "nll")
    ours = torch.autograd.grad(nll, [hidden, weight], d_nll.to(nll.dtype))
    theirs = torch.autograd.grad(expected, exact, d_nll.flatten())
    for name, one, other in zip(("hidden", "weight"), ours, theirs, strict=True):
        assert_close(one, other, GRADIENT_RTOL[dtype], name)


def test_a_bias_is_that_of_the_head() -> None:
    hidden, weight, targets, d_nll = inputs(torch.float64)
    bias = torch.linspace(-1, 1, VOCABULARY, dtype=torch.float64, requires_grad=True)
    nll = linear_cross_entropy(hidden, weight, targets, bias)
    logits = torch.nn.functional.linear(hidden, weight, bias)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    assert_close(nll, expected.view(2, 9), OUTPUT_RTOL[torch.float64], "nll")
    ours = torch.autograd.grad(nll, [hidden, weight, bias], d_nll)
    theirs = torch.autograd.grad(expected, [hidden, weight, bias], d_nll.flatten())
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other, GRADIENT_RTOL[torch.float64])


def test_autocast_narrows_the_product_and_gradients_stay_wide() -> None:
    hidden, weight, targets, _ = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        nll = linear_cross_entropy(hidden, weight, targets)
    nll.sum().backward()
    assert nll.dtype == torch.float32
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.float32
    assert_close(nll, linear_cross_entropy(*inputs(torch.bfloat16)[:3]), OUTPUT_RTOL[torch.bfloat16])


def test_no_logits_are_kept() -> None:
    hidden, weight, targets, _ = inputs(torch.float32)
    kept: list[Tensor] = []
    with saved_tensors_hooks(lambda tensor: (kept.append(tensor), tensor)[1], lambda tensor: tensor):
        linear_cross_entropy(hidden, weight, targets)
    assert {tuple(tensor.shape) for tensor in kept} == {(18, 5), (VOCABULARY, 5), (18,)}
