"""Training in chunks of time gives the loss, the gradients and the state of one big pass."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, assert_close
from torch import Tensor, nn

from bioaudio_mamba import CausalLM, MambaConfig, SequenceClassifier, sum_over_chunks
from bioaudio_mamba.classifier import Pooling

CONFIG = MambaConfig(d_model=16, n_layer=2, d_state=4)
LENGTH = 13


def small_model(dtype: torch.dtype = torch.float32) -> CausalLM:
    return CausalLM(CONFIG, torch.Generator().manual_seed(1)).to(dtype)


def sequence(batch: int = 2, length: int = LENGTH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(CONFIG.vocab_size, (batch, length + 1), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


def loss_in_chunks(
    model: CausalLM, batch: tuple[Tensor, Tensor], chunk_length: int, state: Any = None
) -> tuple[Tensor, Any]:
    tokens, targets = batch

    def chunk(start: int, end: int, state: Any) -> tuple[Tensor, Any]:
        nll, state = model.nll(tokens[:, start:end], targets[:, start:end], state)
        return nll.sum(), state

    return sum_over_chunks(model, chunk, tokens.shape[1], chunk_length, state)


def leaves(state: Any) -> list[Tensor]:
    return [tensor for layer in state for tensor in layer]


@pytest.mark.parametrize("chunk_length", [1, 2, 5, 12, 13, 100])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_chunked_gradients_equal_one_pass(dtype: torch.dtype, chunk_length: int) -> None:
    """Of the parameters and of the initial state, from the loss and from the final state."""
    model, batch = small_model(dtype), sequence()
    generator = torch.Generator().manual_seed(2)

    def random_like(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator, dtype=dtype).to(tensor.dtype)

    state = tuple(
        type(layer)(*(random_like(tensor).requires_grad_() for tensor in layer))
        for layer in model.initial_state(2)
    )
    weights = [random_like(tensor) for tensor in leaves(state)]

    def total(loss: Tensor, final: Any) -> Tensor:
        return loss + sum((w * tensor).sum() for w, tensor in zip(weights, leaves(final), strict=True))

    nll, final = model.nll(*batch, state)
    inputs = {**dict(model.named_parameters()), **dict(enumerate(leaves(state)))}
    expected = torch.autograd.grad(total(nll.sum(), final), list(inputs.values()))
    loss, final_in_chunks = loss_in_chunks(model, batch, chunk_length, state)
    actual = torch.autograd.grad(total(loss, final_in_chunks), list(inputs.values()))
    assert_close(loss, nll.sum(), OUTPUT_RTOL[dtype], "loss")
    for ours, one_pass in zip(leaves(final_in_chunks), leaves(final), strict=True):
        assert_close(ours, one_pass, OUTPUT_RTOL[dtype], "final state")
    for name, ours, one_pass in zip(inputs, actual, expected, strict=True):
        assert_close(ours, one_pass, GRADIENT_RTOL[dtype], str(name))


@pytest.mark.parametrize("backward_inside", [True, False])
def test_autocast_is_that_of_the_forward_pass(backward_inside: bool) -> None:
    model, batch = small_model(), sequence()
    dtypes: list[torch.dtype] = []
    model.backbone.layers[0].register_forward_hook(lambda *call: dtypes.append(call[-1][1].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = loss_in_chunks(model, batch, 5)
        if backward_inside:
            loss.backward()
    if not backward_inside:
        loss.backward()
    assert dtypes == [torch.bfloat16] * 5  # three chunks, two of them again
    in_chunks = [p.grad for p in model.parameters()]
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        nll, _ = model.nll(*batch)
    nll.sum().backward()
    for ours, parameter in zip(in_chunks, model.parameters(), strict=True):
        assert ours is not None
        assert parameter.grad is not None
        assert ours.dtype == torch.float32
        assert_close(ours, parameter.grad, GRADIENT_RTOL[torch.bfloat16])


def test_each_parameter_receives_one_gradient() -> None:
    """As DDP, which reduces a parameter when its gradient comes, needs it; tied weights count once."""
    model, batch = small_model(), sequence()
    calls: list[str] = []
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: calls.append(name))
    for _ in range(2):
        loss_in_chunks(model, batch, 3)[0].backward()
    assert sorted(calls) == sorted(2 * [name for name, _ in model.named_parameters()])


def test_a_hook_that_would_run_for_every_chunk_is_refused() -> None:
    model, batch = small_model(), sequence()
    hook = model.lm_head.weight.register_hook(lambda gradient: gradient / 2)
    with pytest.raises(ValueError, match="has a hook on its gradient"):
        loss_in_chunks(model, batch, 3)
    hook.remove()
    loss_in_chunks(model, batch, 3)


def test_a_second_backward_pass_is_refused() -> None:
    loss, _ = loss_in_chunks(small_model(), sequence(), 3)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        loss.backward()


def test_frozen_and_unused_parameters_receive_no_gradient() -> None:
    model, batch = small_model(), sequence()
    model.register_parameter("unused", nn.Parameter(torch.ones(3)))
    model.backbone.layers[0].requires_grad_(False)
    loss_in_chunks(model, batch, 3)[0].backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {
        "unused",
        *(n for n, _ in model.named_parameters() if n.startswith("backbone.layers.0.")),
    }


def test_a_chunk_draws_the_same_random_numbers_in_both_passes() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))
            self.drawn: list[Tensor] = []

        def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
            self.drawn.append(torch.rand(3))
            return self.weight * x * self.drawn[-1].sum(), ()

    model = Noisy()
    total, _ = sum_over_chunks(model, lambda start, end, state: model(float(end - start), state), 6, 2)
    after = torch.get_rng_state()
    total.backward()
    first, again = model.drawn[:2], model.drawn[:2:-1]  # the last of three chunks runs once
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(torch.get_rng_state(), after)


def test_nothing_is_kept_where_no_gradient_is_wanted() -> None:
    model, batch = small_model(), sequence()
    with torch.no_grad():
        loss, state = loss_in_chunks(model, batch, 4)
    assert not loss.requires_grad
    assert not any(tensor.requires_grad for tensor in leaves(state))
    assert_close(loss, model.nll(*batch)[0].sum().detach(), OUTPUT_RTOL[torch.float32])


def test_parameters_that_change_before_the_backward_pass_are_noticed() -> None:
    model, batch = small_model(), sequence()
    loss, _ = loss_in_chunks(model, batch, 4)
    with torch.no_grad():
        model.backbone.norm_f.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_block_that_is_not_causal_is_refused_by_name() -> None:
    model, batch = small_model(), sequence()
    setattr(model.backbone.layers[1], "is_causal", False)  # noqa: B010
    with pytest.raises(ValueError, match=r"backbone\.layers\.1 \(ResidualLayer\) is not causal"):
        loss_in_chunks(model, batch, 4)


@pytest.mark.parametrize("chunk_length", [0, -1])
def test_an_empty_chunk_is_refused(chunk_length: int) -> None:
    with pytest.raises(ValueError, match="chunk_length must be 1 or more"):
        loss_in_chunks(small_model(), sequence(), chunk_length)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_classifier_trains_in_chunks(pooling: Pooling) -> None:
    classifier = SequenceClassifier(small_model().backbone, 3, pooling, torch.Generator().manual_seed(0))
    tokens, _ = sequence(3)
    lengths, labels = torch.tensor([13, 1, 6]), torch.tensor([0, 2, 1])
    gradients = []
    for chunk_length in (None, 4):
        logits = classifier(tokens, lengths, chunk_length=chunk_length)
        loss = nn.functional.cross_entropy(logits, labels)
        gradients.append(torch.autograd.grad(loss, list(classifier.parameters())))
    for ours, one_pass in zip(*gradients, strict=True):
        assert_close(ours, one_pass, GRADIENT_RTOL[torch.float32])


COMPILED = """
import torch
from bioaudio_mamba import CausalLM, MambaConfig, sum_over_chunks

config = MambaConfig(d_model=8, n_layer=1, d_state=2, backend="reference")
tokens = torch.arange(4).view(1, 4)

def chunk(start, end, state):
    logits, state = model(tokens[:, start:end], state)
    return logits.square().sum(), state

gradients = []
for backend, blocks in ((None, False), ("aot_eager", False), ("eager", True)):
    model = CausalLM(config, torch.Generator().manual_seed(0))
    model.backbone.checkpoint_blocks = blocks
    if backend:
        model.compile(fullgraph=True, backend=backend)
    sum_over_chunks(model, chunk, 4, 2, model.initial_state(1))[0].backward()
    gradients.append([parameter.grad for parameter in model.parameters()])
for compiled in gradients[1:]:
    for one, other in zip(compiled, gradients[0]):
        torch.testing.assert_close(one, other)
"""


def test_a_compiled_model_trains_in_chunks() -> None:
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
