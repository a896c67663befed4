"""The classifier scores what the lengths say, and nothing beyond."""

from __future__ import annotations

import pytest
import torch
from tolerances import OUTPUT_RTOL, assert_close
from torch import Tensor

from bioaudio_mamba import CausalLM, SequenceClassifier
from bioaudio_mamba.classifier import Pooling

LENGTHS = torch.tensor([12, 1, 7])


@pytest.fixture(params=["last", "mean"])
def classifier(request: pytest.FixtureRequest, model: CausalLM, rng: torch.Generator) -> SequenceClassifier:
    pooling: Pooling = request.param
    return SequenceClassifier(model.backbone, 5, pooling, rng)


def test_padding_changes_nothing(classifier: SequenceClassifier, tokens: Tensor) -> None:
    logits = classifier(tokens, LENGTHS)
    assert logits.shape == (3, 5)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = classifier(tokens[row : row + 1, :length])
        assert_close(logits[row], alone[0], OUTPUT_RTOL[torch.float32], f"sequence {row}")
        tokens[row, length:] = 4
    assert torch.equal(classifier(tokens, LENGTHS), logits)


def test_lengths_default_to_all_tokens(classifier: SequenceClassifier, tokens: Tensor) -> None:
    assert torch.equal(classifier(tokens), classifier(tokens, torch.full((3,), 12)))


def test_every_counted_token_matters_when_the_mean_is_taken(model: CausalLM, tokens: Tensor) -> None:
    hidden, _ = model.backbone(tokens)
    classifier = SequenceClassifier(model.backbone, 5, "mean")
    expected = classifier.head(torch.stack([hidden[i, :n].mean(0) for i, n in enumerate(LENGTHS.tolist())]))
    assert_close(classifier(tokens, LENGTHS), expected, OUTPUT_RTOL[torch.float32], "logits")


def test_a_frozen_backbone_gets_no_gradient(classifier: SequenceClassifier, tokens: Tensor) -> None:
    classifier.freeze_backbone()
    classifier(tokens, LENGTHS).sum().backward()
    assert all(parameter.grad is None for parameter in classifier.backbone.parameters())
    assert all(parameter.grad is not None for parameter in classifier.head.parameters())


@pytest.mark.parametrize("lengths", [[12, 0, 3], [12, 13, 3]])
def test_lengths_out_of_range_are_refused(
    classifier: SequenceClassifier, tokens: Tensor, lengths: list[int]
) -> None:
    with pytest.raises(ValueError, match=r"lengths lie in .*; each must be in \[1, 12\]"):
        classifier(tokens, torch.tensor(lengths))


def test_unknown_pooling_and_a_single_class_are_refused(model: CausalLM) -> None:
    with pytest.raises(ValueError, match="n_classes must be at least 2, got 1"):
        SequenceClassifier(model.backbone, 1)
