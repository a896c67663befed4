"""State is a value: a sequence read whole, in pieces or by token gives the same, gradients included."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, assert_close
from torch import Tensor

from bioaudio_mamba import BlockState, CausalLM, MambaBlock, MambaConfig, ModelState

SMALL = MambaConfig(d_model=16, n_layer=2, d_state=4)


def small_model(dtype: torch.dtype = torch.float32) -> CausalLM:
    return CausalLM(SMALL, torch.Generator().manual_seed(1)).to(dtype)


def random_tokens(batch: int, length: int) -> Tensor:
    return torch.randint(SMALL.vocab_size, (batch, length), generator=torch.Generator().manual_seed(length))


def assert_same_state(actual: ModelState, expected: ModelState, rtol: float) -> None:
    for layer, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert_close(a.conv, b.conv, rtol, f"convolution state of layer {layer}")
        assert_close(a.ssm, b.ssm, rtol, f"SSM state of layer {layer}")


@settings(max_examples=6, deadline=None)
@given(length=st.integers(2, 16), cuts=st.lists(st.integers(0, 16), max_size=3))
def test_pieces_equal_the_whole(length: int, cuts: list[int]) -> None:
    model, tokens = small_model(), random_tokens(2, length)
    expected, expected_state = model(tokens)
    edges = [0, *sorted(min(cut, length) for cut in cuts), length]  # equal edges make empty pieces
    state, pieces = None, []
    for start, end in itertools.pairwise(edges):
        logits, state = model(tokens[:, start:end], state)
        pieces.append(logits)
    assert state is not None
    rtol = OUTPUT_RTOL[torch.float32]
    assert_close(torch.cat(pieces, 1), expected, rtol, "logits")
    assert_same_state(state, expected_state, rtol)


def test_steps_equal_the_whole(model: CausalLM, tokens: Tensor) -> None:
    expected, expected_state = model(tokens)
    state, logits = model.initial_state(tokens.shape[0]), []
    for column in tokens.unbind(1):
        step_logits, state = model.step(column, state)
        logits.append(step_logits)
    rtol = OUTPUT_RTOL[torch.float32]
    assert_close(torch.stack(logits, 1), expected, rtol, "logits")
    assert_same_state(state, expected_state, rtol)


def test_zeros_are_the_state_before_the_start(model: CausalLM, tokens: Tensor) -> None:
    assert torch.equal(model(tokens, model.initial_state(tokens.shape[0]))[0], model(tokens)[0])


@pytest.mark.parametrize("chunk_length", [1, 5, 12, 100])
def test_prefill_equals_the_whole(model: CausalLM, tokens: Tensor, chunk_length: int) -> None:
    expected, expected_state = model(tokens)
    logits, state = model.prefill(tokens, chunk_length=chunk_length)
    rtol = OUTPUT_RTOL[torch.float32]
    assert_close(logits, expected[:, -1], rtol, "logits")
    assert_same_state(state, expected_state, rtol)
    assert not logits.requires_grad


def test_prefill_goes_on_from_a_state(model: CausalLM, tokens: Tensor) -> None:
    _, state = model.prefill(tokens[:, :5])
    logits, _ = model.prefill(tokens[:, 5:], state, chunk_length=3)
    assert_close(logits, model(tokens)[0][:, -1], OUTPUT_RTOL[torch.float32], "logits")


def test_reading_leaves_a_state_as_it_was(model: CausalLM, tokens: Tensor) -> None:
    _, state = model(tokens)
    copies = [tensor.clone() for layer in state for tensor in layer]
    model(tokens, state)
    model.step(tokens[:, 0], state)
    assert all(torch.equal(a, b) for a, b in zip(copies, (t for s in state for t in s), strict=True))


def test_gradients_of_pieces_equal_those_of_the_whole() -> None:
    model, tokens = small_model(torch.float64), random_tokens(2, 10)
    weights = torch.randn(2, 10, SMALL.vocab_size, generator=torch.Generator().manual_seed(0)).double()
    parameters = dict(model.named_parameters())
    expected = torch.autograd.grad((model(tokens)[0] * weights).sum(), list(parameters.values()))
    first, state = model(tokens[:, :7])
    second, _ = model(tokens[:, 7:], state)
    loss = (torch.cat([first, second], 1) * weights).sum()
    actual = torch.autograd.grad(loss, list(parameters.values()))
    for name, a, b in zip(parameters, actual, expected, strict=True):
        assert_close(a, b, GRADIENT_RTOL[torch.float64], name)


def test_block_gradients_through_both_states_match_finite_differences() -> None:
    config = MambaConfig(d_model=3, n_layer=1, d_state=2, dt_rank=1, backend="reference")
    block = MambaBlock(config, torch.Generator().manual_seed(0)).double()
    rng = torch.Generator().manual_seed(1)
    inputs = [
        torch.randn(shape, generator=rng, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 4, 3), (2, 3, 6), (2, 6, 2))
    ]

    def run(x: Tensor, conv: Tensor, ssm: Tensor) -> tuple[Tensor, ...]:
        y, state = block(x, BlockState(conv, ssm))
        return y, state.conv, state.ssm

    assert torch.autograd.gradcheck(run, inputs)


def test_a_state_of_another_depth_is_refused(model: CausalLM, tokens: Tensor) -> None:
    _, state = model(tokens)
    with pytest.raises(ValueError, match="state of 1 layers given to a model of 2"):
        model(tokens, state[:1])


def test_prefill_refuses_an_empty_prompt_and_an_empty_chunk(model: CausalLM, tokens: Tensor) -> None:
    with pytest.raises(ValueError, match="empty prompt"):
        model.prefill(tokens[:, :0])
    with pytest.raises(ValueError, match="chunk_length must be positive, got 0"):
        model.prefill(tokens, chunk_length=0)
