"""What the model sees and does not see: the past, not the future; its own sequence, not its neighbours."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import OUTPUT_RTOL, assert_close
from torch import Tensor

from bioaudio_mamba import CausalLM, MambaConfig

LENGTH = 10


@settings(max_examples=5, deadline=None)
@given(position=st.integers(0, LENGTH - 1))
def test_no_gradient_from_the_future(position: int) -> None:
    rng = torch.Generator().manual_seed(position)
    model = CausalLM(MambaConfig(d_model=16, n_layer=2, d_state=4), rng)
    embedded: list[Tensor] = []
    model.backbone.embeddings.register_forward_hook(lambda *call: embedded.append(call[-1]))
    logits, _ = model(torch.randint(16, (1, LENGTH), generator=rng))
    (gradient,) = torch.autograd.grad(logits[:, position].square().sum(), embedded)
    reach = gradient[0].abs().amax(-1)
    assert (reach[: position + 1] > 0).all()
    assert (reach[position + 1 :] == 0).all()


def test_a_batch_equals_its_sequences_one_by_one(model: CausalLM, tokens: Tensor) -> None:
    together, _ = model(tokens)
    for row, sequence in enumerate(tokens):
        alone, _ = model(sequence.unsqueeze(0))
        assert_close(alone[0], together[row], OUTPUT_RTOL[torch.float32], f"sequence {row}")


def test_tokens_of_any_integer_dtype_mean_the_same(model: CausalLM, tokens: Tensor) -> None:
    assert torch.equal(model(tokens.to(torch.uint8))[0], model(tokens)[0])


@pytest.mark.parametrize("wrong", [-1, 16])
def test_tokens_beyond_the_vocabulary_are_refused(model: CausalLM, tokens: Tensor, wrong: int) -> None:
    tokens[1, 3] = wrong
    with pytest.raises(ValueError, match=r"vocabulary has ids 0 to 15: were they encoded with another"):
        model(tokens)
    with pytest.raises(ValueError, match=r"vocabulary has ids 0 to 15"):
        model.step(tokens[:, 3], model.initial_state(3))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_compute_the_same_and_keep_the_head_tied(
    model: CausalLM, tokens: Tensor, duplicate: type
) -> None:
    twin = duplicate(model)
    assert torch.equal(twin(tokens)[0], model(tokens)[0])
    assert twin.lm_head.weight is twin.backbone.embeddings.weight
    assert twin.lm_head.weight is not model.lm_head.weight


def test_an_untied_head_has_weights_of_its_own(rng: torch.Generator) -> None:
    model = CausalLM(MambaConfig(d_model=16, n_layer=1, tie_embeddings=False), rng)
    assert model.lm_head.weight is not model.backbone.embeddings.weight
    assert not torch.equal(model.lm_head.weight, model.backbone.embeddings.weight)
