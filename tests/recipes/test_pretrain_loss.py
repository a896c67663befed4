"""The loss of a step is a mean over the bases it predicted, however the step is cut, and never NaN."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from bioaudio_data.vocabulary import DNA, SOFT_MASK_BIT
from bioaudio_recipes.optimisation import OptimizerConfig, learning_rate_at, rescale_and_clip, update_average
from bioaudio_recipes.pretrain.language_model import LanguageModel
from bioaudio_recipes.pretrain.next_token_loss import next_token_sums, per_target
from bioaudio_recipes.pretrain.objective import NextBase
from bioaudio_recipes.training.engine import TrainerConfig, fit
from simulated_ranks import SimulatedRanks, on_ranks
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, assert_close
from torch import Tensor
from torch.nn import functional

from bioaudio_mamba import CausalLM, MambaConfig

LENGTH = 8
TOKENS = 8 * LENGTH


def small_model() -> CausalLM:
    config = MambaConfig(d_model=8, n_layer=1, d_state=4, backend="reference")
    return CausalLM(config, torch.Generator().manual_seed(0))


def packed(rng: torch.Generator, rows: int = 8) -> Tensor:
    """Random bases, a quarter of them N and a third soft-masked."""
    bases = torch.randint(DNA.A, DNA.T + 1, (rows, LENGTH), generator=rng)
    bases[torch.rand(bases.shape, generator=rng) < 0.25] = DNA.N
    bases[torch.rand(bases.shape, generator=rng) < 0.33] |= SOFT_MASK_BIT
    return bases.to(torch.uint8)


def train(steps: list[Tensor], accumulation: int, ema_decay: float | None = None) -> LanguageModel:
    """Train on `steps`, each cut into `accumulation` micro-batches."""
    module = LanguageModel(
        small_model(),
        OptimizerConfig(learning_rate=1e-2, warmup=0.0, ema_decay=ema_decay),
        NextBase(soft_mask_weight=0.25),
        total_steps=len(steps),
        tokens_per_step=TOKENS,
        tokens_per_microbatch=TOKENS // accumulation,
    )
    microbatches = [part for step in steps for part in step.chunk(accumulation)]
    loader = torch.utils.data.DataLoader(microbatches, batch_size=None)  # pyright: ignore[reportArgumentType]
    fit(module, loader, [], TrainerConfig(accelerator="cpu"), accumulation=accumulation)
    return module


def test_sums_count_bases_and_weigh_repeats(rng: torch.Generator) -> None:
    model, batch = small_model(), packed(rng)
    sums = next_token_sums(model, batch, soft_mask_weight=0.25)
    tokens = (batch & 0x7F).long()
    log_p = functional.log_softmax(model(tokens)[0], -1)
    weighted_nll = nll = weight = bases = 0.0
    for row, letters in enumerate(tokens.tolist()):
        for t, target in enumerate(letters[1:]):
            if DNA.A <= target <= DNA.T:
                w = 0.25 if batch[row, t + 1] & SOFT_MASK_BIT else 1.0
                loss = -log_p[row, t, target].item()
                weighted_nll, nll, weight, bases = weighted_nll + w * loss, nll + loss, weight + w, bases + 1
    expected = torch.tensor([weighted_nll, weight, nll, bases])
    assert_close(torch.stack(sums).detach(), expected, OUTPUT_RTOL[torch.float32])


@pytest.mark.parametrize(
    ("size", "chunk_length", "short"),
    [(3, None, True), (2, 2, True), (2, 3, True), (2, 4, False), (2, None, False)],
)
def test_shards_too_short_are_refused_on_every_rank_alike(
    size: int, chunk_length: int | None, short: bool, rng: torch.Generator
) -> None:
    model, batch = small_model(), packed(rng)

    def run(ranks: SimulatedRanks) -> str:
        try:
            next_token_sums(model, batch, chunk_length=chunk_length, context=ranks)
        except ValueError as error:
            return str(error)
        return ""

    assert all(("needs 3: give another --trainer.chunk_length" in e) == short for e in on_ranks(size, run))


def test_gradients_of_a_step_are_those_of_the_mean_loss(rng: torch.Generator) -> None:
    batch, model = packed(rng), small_model()
    module = train([batch], accumulation=4)
    sums = next_token_sums(model, batch, 0.25)
    (sums.weighted_nll / sums.weight).backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert_close(module.grad_norm, norm, GRADIENT_RTOL[torch.float32])


def test_accumulation_does_not_change_the_training(rng: torch.Generator) -> None:
    steps = [packed(rng) for _ in range(3)]
    whole, cut = train(steps, 1), train(steps, 4)
    for (name, one), other in zip(whole.named_parameters(), cut.parameters(), strict=True):
        assert_close(other, one, GRADIENT_RTOL[torch.float32], name)
    assert whole.take_interval() == pytest.approx(cut.take_interval(), rel=1e-4)


def test_step_without_a_base_counts_nothing(rng: torch.Generator) -> None:
    nothing = torch.full((8, LENGTH), DNA.N, dtype=torch.uint8)
    sums = next_token_sums(small_model(), nothing)
    assert [value.item() for value in sums] == [0, 0, 0, 0]
    module = train([nothing], 2)
    assert module.grad_norm == 0
    for trained, start in zip(module.model.parameters(), small_model().parameters(), strict=True):
        assert torch.equal(trained, start) or torch.allclose(trained, start * (1 - 1e-5 * 0.1))
    partly = torch.cat([nothing[:4], packed(rng, 4)])
    assert all(bool(p.isfinite().all()) for p in train([partly, nothing], 2).parameters())


def test_average_follows_the_weights(rng: torch.Generator) -> None:
    steps = [packed(rng) for _ in range(3)]
    module = train(steps, 1, ema_decay=0.5)
    assert module.result is not module.model
    ours, trained = module.result.state_dict(), module.model.state_dict()
    assert ours.keys() == trained.keys()
    assert not all(torch.equal(ours[name], trained[name]) for name in ours)


def test_the_first_step_moves_the_average_nine_tenths_of_the_way(rng: torch.Generator) -> None:
    module = train([packed(rng)], 1, ema_decay=0.999)
    weights = zip(small_model().parameters(), module.model.parameters(), strict=True)
    for average, (start, trained) in zip(module.result.parameters(), weights, strict=True):
        torch.testing.assert_close(average, torch.lerp(start, trained, 0.9))


def test_average_forgets_the_first_weights_of_a_short_training() -> None:
    average, model = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    expected = average.weight.item()
    for step in range(30):
        torch.nn.init.constant_(model.weight, step)
        update_average(average, model, 0.75, step)
        decay = min(0.75, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        assert average.weight.item() == pytest.approx(expected, rel=1e-5)


def test_rescaling_comes_before_clipping() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    frozen = torch.nn.Parameter(torch.zeros(1))
    norm = rescale_and_clip([weight, frozen], torch.tensor(2.0), clip_norm=1.0)
    assert norm == 10
    assert_close(weight.grad, torch.tensor([0.6, 0.8]), OUTPUT_RTOL[torch.float32])


def test_learning_rate_rises_then_falls_over_all_steps() -> None:
    config = OptimizerConfig(learning_rate=8e-3, lr_min=1e-5, warmup=0.1)
    rates = [learning_rate_at(step, 1000, config) for step in range(1000)]
    assert rates[0] == pytest.approx(8e-5)
    assert rates[99] == 8e-3 == max(rates)
    assert rates[549] == pytest.approx((8e-3 + 1e-5) / 2)
    assert rates[-1] == pytest.approx(1e-5)
    assert all(a > b for a, b in pairwise(rates[99:]))


def test_perplexity_and_bits_of_a_uniform_guess() -> None:
    assert per_target(math.log(4), "base") == pytest.approx({"perplexity": 4, "bits_per_base": 2})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("learning_rate", 0),
        ("lr_min", 1),
        ("warmup", 1),
        ("clip_norm", 0),
        ("ema_decay", 1),
        ("weight_decay", -1),
    ],
)
def test_optimizer_settings_are_checked(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"--optimizer.{setting}"):
        OptimizerConfig(**{setting: value})
