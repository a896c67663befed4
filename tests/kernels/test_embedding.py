"""The lookup of vectors: torch's on a CPU, and who sums its gradient elsewhere."""

from __future__ import annotations

import inspect
from unittest import mock

import pytest
import torch
from bioaudio_kernels import embedding
from bioaudio_kernels.embedding import MOST_ROWS


def test_it_is_torchs_lookup() -> None:
    weight = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    tokens = torch.tensor([[0, 6], [6, 2]])
    vectors = embedding(tokens, weight)
    assert torch.equal(vectors, weight[tokens])
    vectors.sum().backward()
    assert weight.grad is not None
    assert weight.grad[:, 0].tolist() == [1, 0, 1, 0, 0, 0, 2]


@pytest.mark.parametrize("vocab", [MOST_ROWS, MOST_ROWS + 1])
def test_a_large_table_is_left_to_torch(vocab: int) -> None:
    with mock.patch("bioaudio_kernels.embedding.resolve_backend", return_value="reference") as resolve:
        embedding(torch.tensor([1]), torch.zeros(vocab, 2))
    assert resolve.call_args.args[1] == ("auto" if vocab == MOST_ROWS else "reference")


@pytest.mark.parametrize(
    ("tokens", "weight", "options", "complaint"),
    [
        (torch.zeros(2), torch.zeros(3, 2), {}, "tokens are torch.float32, expected integers"),
        (torch.ones(2, dtype=torch.bool), torch.zeros(3, 2), {}, "tokens are torch.bool"),
        (torch.tensor([1]), torch.zeros(3, 2).int(), {}, "weight is int32, allowed are float32"),
        (torch.tensor([1]), torch.zeros(3, 2), {"backend": "cuda"}, "backend='cuda' is unknown"),
        (torch.tensor([1]), torch.zeros(3), {}, r"weight has shape \(3,\), expected \(vocab, d_model\)"),
    ],
)
def test_wrong_inputs_end_in_a_sentence(
    tokens: torch.Tensor, weight: torch.Tensor, options: dict[str, str], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        inspect.unwrap(embedding)(tokens, weight, **options)
