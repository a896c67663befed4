"""One sequence over several ranks is one sequence: logits, states and every gradient, chunk after chunk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from bioaudio_kernels import Ranks, cut_cu_seqlens
from simulated_ranks import on_ranks
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, assert_close
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bioaudio_mamba import BlockState, CausalLM, MambaConfig, ModelState, shard_of

CHUNKS = ((7, 4, 9), (3, 5, 4))
"""Steps of each rank in two chunks of one sequence that are read in turn."""
ON_EVERY_BACKEND = pytest.mark.parametrize(
    ("backend", "dtype"), [("reference", torch.float64), ("cpu", torch.float32)], ids=["float64", "cpu"]
)


def make_model(dtype: torch.dtype, backend: Any = "auto") -> CausalLM:
    config = MambaConfig(d_model=8, n_layer=2, d_state=3, backend=backend)
    return CausalLM(config, torch.Generator().manual_seed(1)).to(dtype)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_state(model: CausalLM, sequences: int) -> ModelState:
    return tuple(
        BlockState(*(random(*tensor.shape, seed=i).to(tensor.dtype).requires_grad_() for tensor in layer))
        for i, layer in enumerate(model.initial_state(sequences))
    )


def flat(state: ModelState) -> list[Tensor]:
    return [tensor for layer in state for tensor in layer]


def loss_of(logits: Tensor, start: int, state: ModelState | None = None) -> Tensor:
    """A sum over steps whose weights depend on their place in the sequence, and over the last state."""
    weights = random(*logits.shape[:1], 64, logits.shape[2], seed=5)[:, start : start + logits.shape[1]]
    loss = (logits * weights.to(logits.dtype)).sum()
    for i, tensor in enumerate(flat(state) if state else []):
        loss = loss + (tensor * random(*tensor.shape, seed=20 + i).to(tensor.dtype)).sum()
    return loss


def results(model: CausalLM, tokens: Tensor, cuts: Sequence[Sequence[int]], ranks: Ranks | None) -> Any:
    """Logits here, the last state, gradients of parameters and of the first state; `cuts` as `CHUNKS`."""
    state = first = random_state(model, tokens.shape[0])
    begin, logits, loss = 0, [], torch.zeros((), dtype=torch.float64)
    for lengths in cuts:
        start = begin + sum(lengths[: ranks.rank] if ranks else ())
        stop = start + (lengths[ranks.rank] if ranks else sum(lengths))
        mine, state = model(tokens[:, start:stop], state, context=ranks)
        begin += sum(lengths)
        loss = loss + loss_of(mine, start, state if begin == tokens.shape[1] else None)
        logits.append(mine)
    parameters = torch.autograd.grad(loss, [*model.parameters(), *flat(first)])
    count = len(list(model.parameters()))
    return logits, [*flat(state), *parameters[count:]], parameters[:count]


@ON_EVERY_BACKEND
def test_chunks_over_unequal_shards_equal_one_rank(backend: str, dtype: torch.dtype) -> None:
    """The state passes from chunk to chunk, and its gradient back."""
    model, tokens = make_model(dtype, backend), torch.randint(16, (2, 32), generator=torch.manual_seed(0))
    expected_logits, expected_states, expected_gradients = results(model, tokens, CHUNKS, None)
    every = on_ranks(3, lambda ranks: results(model, tokens, CHUNKS, ranks))
    for chunk, expected in enumerate(expected_logits):
        assert_close(torch.cat([r[0][chunk] for r in every], 1), expected, OUTPUT_RTOL[dtype], "logits")
    for _, states, _ in every:
        for i, (actual, expected) in enumerate(zip(states, expected_states, strict=True)):
            assert torch.equal(actual, every[0][1][i])
            assert_close(actual, expected, GRADIENT_RTOL[dtype], f"state or its gradient {i}")
    for (name, _), expected, *parts in zip(
        model.named_parameters(), expected_gradients, *(r[2] for r in every), strict=True
    ):
        assert_close(torch.stack(parts).sum(0), expected, GRADIENT_RTOL[dtype], name)


def packed_results(
    model: CausalLM, tokens: Tensor, state: ModelState, start: int, cu_seqlens: Tensor | None = None
) -> Any:
    logits, last = model(tokens, state, cu_seqlens=cu_seqlens)
    parameters = list(model.parameters())
    loss = loss_of(logits, start) + sum(tensor.sum() for tensor in flat(last))
    found = torch.autograd.grad(loss, [*flat(state), *parameters], materialize_grads=True)
    return logits, flat(last), found[: len(flat(state))], found[len(flat(state)) :]


@pytest.mark.parametrize("borders", [[0, 2, 2, 5, 12], [0, 1, 12], [0, 12, 12]])
@ON_EVERY_BACKEND
def test_packed_sequences_equal_each_alone(backend: str, dtype: torch.dtype, borders: list[int]) -> None:
    model, tokens = make_model(dtype, backend), torch.randint(16, (1, 12), generator=torch.manual_seed(0))
    state = random_state(model, len(borders) - 1)
    actual = packed_results(model, tokens, state, 0, cu_seqlens=torch.tensor(borders))
    logits, last, d_state, d_parameters = [], [], [], []
    for i, (start, stop) in enumerate(pairwise(borders)):
        own = tuple(BlockState(*(t[i : i + 1].detach().requires_grad_() for t in layer)) for layer in state)
        alone = packed_results(model, tokens[:, start:stop], own, start)
        for found, one in zip((logits, last, d_state, d_parameters), alone, strict=True):
            found.append(one)
    assert_close(actual[0], torch.cat(logits, 1), OUTPUT_RTOL[dtype], "logits")
    for name, found, every, table in (
        ("state", actual[1], last, OUTPUT_RTOL),
        ("its gradient", actual[2], d_state, GRADIENT_RTOL),
    ):
        for tensor, *parts in zip(found, *every, strict=True):
            assert_close(tensor, torch.cat(parts), table[dtype], name)
    for tensor, *parts in zip(actual[3], *d_parameters, strict=True):
        assert_close(tensor, torch.stack(parts).sum(0), GRADIENT_RTOL[dtype], "gradient of a parameter")


@pytest.mark.parametrize("inside", [(5, 11), (4, 8), (2, 3, 9), (7,), (4, 4, 12)])
def test_packed_sequences_over_ranks_equal_one_rank(inside: tuple[int, ...]) -> None:
    """Borders on and off the edges, sequences shorter than the convolution at an edge, and empty ones."""
    model, tokens = make_model(torch.float64), torch.randint(16, (1, 12), generator=torch.manual_seed(0))
    borders = torch.tensor([0, *inside, 12])
    state = random_state(model, len(inside) + 1)
    expected = packed_results(model, tokens, state, 0, cu_seqlens=borders)
    shards = cut_cu_seqlens(borders, [4, 4, 4])

    def run(ranks: Ranks) -> Any:
        row = sum(shard.numel() - 2 for shard in shards[: ranks.rank])
        rows = slice(row, row + shards[ranks.rank].numel() - 1)
        mine = tuple(
            BlockState(*(tensor[rows].detach().requires_grad_() for tensor in layer)) for layer in state
        )
        start = 4 * ranks.rank
        context: Any = ranks
        logits, last = model(
            tokens[:, start : start + 4], mine, cu_seqlens=shards[ranks.rank], context=context
        )
        end = None if ranks.rank == ranks.size - 1 else -1  # where a sequence goes on it has no last state
        loss = loss_of(logits, start) + sum(tensor[:end].sum() for tensor in flat(last))
        found = torch.autograd.grad(loss, [*flat(mine), *model.parameters()])
        everywhere = []
        for tensor, gradient in zip(flat(last), found, strict=False):
            whole = [tensor.new_zeros(len(inside) + 1, *tensor.shape[1:]) for _ in range(2)]
            whole[0][rows][:end], whole[1][rows] = tensor[:end], gradient
            everywhere += whole
        return logits, everywhere, found[len(flat(mine)) :]

    every = on_ranks(3, run)
    rtol = GRADIENT_RTOL[torch.float64]
    assert_close(torch.cat([r[0] for r in every], 1), expected[0], rtol, "logits")
    wanted = [tensor for pair in zip(expected[1], expected[2], strict=True) for tensor in pair]
    for parts, tensors in ((1, wanted), (2, expected[3])):
        for i, tensor in enumerate(tensors):
            assert_close(torch.stack([r[parts][i] for r in every]).sum(0), tensor, rtol, f"{parts} {i}")


def test_recomputed_layers_over_ranks_have_the_same_gradients() -> None:
    """Per-layer checkpoints run the exchanges again, in the same order on every rank; under autocast too."""
    model, tokens = make_model(torch.float32), torch.randint(16, (2, 16), generator=torch.manual_seed(0))
    kept = on_ranks(2, lambda ranks: autocast_gradients(model, tokens, ranks))
    for layer in model.backbone.layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    recomputed = on_ranks(2, lambda ranks: autocast_gradients(model, tokens, ranks))
    for expected, actual in zip(kept, recomputed, strict=True):
        assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


def autocast_gradients(model: CausalLM, tokens: Tensor, ranks: Ranks) -> tuple[Tensor, ...]:
    with torch.autocast("cpu", torch.bfloat16):
        logits, _ = model(tokens[:, 8 * ranks.rank : 8 * ranks.rank + 8], context=ranks)
    return torch.autograd.grad(loss_of(logits.float(), 8 * ranks.rank), list(model.parameters()))


def test_shards_are_consecutive_and_of_nearly_one_length() -> None:
    for length in (7, 8, 9):
        steps = torch.arange(length)
        shards = on_ranks(3, lambda ranks, steps=steps: steps[shard_of(ranks, len(steps))])
        assert torch.equal(torch.cat(shards), steps)
        assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_a_shard_shorter_than_the_convolution_reaches_is_refused() -> None:
    model, tokens = make_model(torch.float32), torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"context rank \d of 2 holds 2 steps .* needs 3 or more on each"):
        on_ranks(2, lambda ranks: model(tokens, context=ranks))
