"""Weight decay reaches each parameter that it should, once, and none that it should not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bioaudio_mamba import CausalLM, SequenceClassifier, optimizer_groups

DECAYED = {"embeddings", "in_proj", "conv1d", "x_proj", "dt_proj", "out_proj", "head", "lm_head"}


def names_by_decay(model: nn.Module) -> tuple[set[str], set[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decay, no_decay = optimizer_groups(model, weight_decay=0.1)
    assert (decay["weight_decay"], no_decay["weight_decay"]) == (0.1, 0.0)
    return {names[id(p)] for p in decay["params"]}, {names[id(p)] for p in no_decay["params"]}


def test_groups_cover_each_parameter_exactly_once(model: CausalLM) -> None:
    grouped = [id(p) for group in optimizer_groups(model, 0.1) for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters()}


def test_only_weights_of_projections_and_the_embedding_decay(model: CausalLM) -> None:
    decayed, spared = names_by_decay(SequenceClassifier(model.backbone, 5))
    assert all(name.endswith(".weight") and name.split(".")[-2] in DECAYED for name in decayed)
    assert {name.split(".", 4)[-1] for name in spared if ".mixer." in name} == {
        "A_log",
        "D",
        "conv1d.bias",
        "dt_proj.bias",
    }
    assert {name for name in spared if ".mixer." not in name} == {
        "head.bias",
        "backbone.norm_f.weight",
        "backbone.layers.0.norm.weight",
        "backbone.layers.1.norm.weight",
    }


def test_groups_survive_deepcopy(model: CausalLM) -> None:
    assert names_by_decay(copy.deepcopy(model)) == names_by_decay(model)


def test_frozen_parameters_are_left_out(model: CausalLM) -> None:
    classifier = SequenceClassifier(model.backbone, 5)
    classifier.freeze_backbone()
    assert names_by_decay(classifier) == ({"head.weight"}, {"head.bias"})
    torch.optim.AdamW(optimizer_groups(classifier, 0.1))
    classifier.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter to train"):
        optimizer_groups(classifier, 0.1)


def test_negative_weight_decay_is_refused(model: CausalLM) -> None:
    with pytest.raises(ValueError, match=r"weight_decay must not be negative, got -0\.1"):
        optimizer_groups(model, -0.1)
