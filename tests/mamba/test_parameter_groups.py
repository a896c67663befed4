"""Weight decay reaches each parameter that it should, once, and none that it should not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from unet_reference import BLOCKS, small_unet

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


def test_a_b_and_dt_of_s4d_learn_at_their_own_rate_and_never_decay() -> None:
    model = small_unet(BLOCKS["mamba-s4"], BLOCKS["s4"], BLOCKS["complex mamba"], pool_gain=True)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decay, no_decay, lti = optimizer_groups(model, 0.1, lti_learning_rate=1e-3)
    members = [{names[id(p)] for p in group["params"]} for group in (decay, no_decay, lti)]
    assert sum(map(len, members)) == len(set.union(*members)) == len(names)
    assert {name.split("s4d.")[1] for name in members[2]} == {"A_log", "A_imag", "B", "log_dt"}
    assert {name.split("s4d.")[1] for name in members[0] if "s4d" in name} == {"C"}
    assert {name.split("s4d.")[1] for name in members[1] if "s4d" in name} == {"D"}
    assert all(name.endswith((".weight", ".C")) for name in members[0])
    assert (lti["lr"], lti["weight_decay"], no_decay["weight_decay"]) == (1e-3, 0.0, 0.0)
    optimizer = torch.optim.AdamW([decay, no_decay, lti], lr=2e-3)
    assert [group["lr"] for group in optimizer.param_groups] == [2e-3, 2e-3, 1e-3]
    assert "lr" not in optimizer_groups(model, 0.1)[2]


def test_negative_weight_decay_is_refused(model: CausalLM) -> None:
    with pytest.raises(ValueError, match=r"weight_decay must not be negative, got -0\.1"):
        optimizer_groups(model, -0.1)
