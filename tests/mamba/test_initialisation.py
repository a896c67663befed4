"""Weights start as the paper's do: exactly where they are fixed, by distribution where they are drawn."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from bioaudio_mamba import CausalLM, MambaBlock, MambaConfig

WIDE = MambaConfig(d_model=512, n_layer=9, vocab_size=512)


@pytest.fixture
def block(rng: torch.Generator) -> MambaBlock:
    return MambaBlock(WIDE, rng)


def assert_uniform(sample: Tensor, low: float, high: float) -> None:
    """Every value within the bounds, and no departure from the uniform law (Kolmogorov-Smirnov)."""
    sample = sample.detach().double().flatten()
    slack = 1e-6 * (high - low)
    assert low - slack <= sample.min().item()
    assert sample.max().item() <= high + slack
    assert stats.kstest(sample[:20_000].numpy(), stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_softplus_of_the_dt_bias_is_log_uniform(block: MambaBlock) -> None:
    dt = F.softplus(block.dt_proj.bias.double())
    assert_uniform(dt.log(), math.log(1e-3), math.log(1e-1))


def test_dt_never_starts_below_the_floor(rng: torch.Generator) -> None:
    config = MambaConfig(d_model=512, n_layer=1, dt_init_floor=1e-2)
    dt = F.softplus(MambaBlock(config, rng).dt_proj.bias.double())
    at_floor = dt.log() - math.log(1e-2) < 1e-4
    # 1e-2 is the middle of [1e-3, 1e-1] on a logarithmic scale: half of the draws end at the floor.
    assert dt.min().item() == pytest.approx(1e-2, rel=1e-4)
    assert stats.binomtest(int(at_floor.sum()), dt.numel(), 0.5).pvalue > 1e-3


def test_A_is_minus_one_to_minus_n_and_D_is_one(block: MambaBlock) -> None:
    expected = torch.arange(1.0, 17.0).log().expand(1024, 16)
    assert torch.equal(block.A_log, expected)
    assert torch.equal(block.D, torch.ones(1024))


def test_projections_are_uniform_within_one_over_the_root_of_their_inputs(block: MambaBlock) -> None:
    assert_uniform(block.in_proj.weight, -(512**-0.5), 512**-0.5)
    assert_uniform(block.x_proj.weight, -(1024**-0.5), 1024**-0.5)
    assert_uniform(block.dt_proj.weight, -(32**-0.5), 32**-0.5)
    assert_uniform(block.conv1d.weight, -0.5, 0.5)
    assert_uniform(block.conv1d.bias, -0.5, 0.5)


def test_out_proj_shrinks_with_the_root_of_the_depth(block: MambaBlock) -> None:
    bound = 1024**-0.5 / 3  # of 9 layers
    assert_uniform(block.out_proj.weight, -bound, bound)


def test_embedding_is_normal_and_norms_are_one(rng: torch.Generator) -> None:
    model = CausalLM(MambaConfig(d_model=256, n_layer=1, vocab_size=512), rng)
    embedding = model.backbone.embeddings.weight.detach().double().flatten()[:20_000]
    assert stats.kstest(embedding.numpy(), stats.norm(0, 0.02).cdf).pvalue > 1e-3
    assert torch.equal(model.backbone.norm_f.weight, torch.ones(256))


def test_a_generator_decides_all_weights_and_spares_the_global_state() -> None:
    config = MambaConfig(d_model=16, n_layer=2, tie_embeddings=False)
    before = torch.get_rng_state()
    first, second, other = (CausalLM(config, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for (name, a), b, c in zip(
        first.named_parameters(), second.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(a, b), name
        drawn = not name.endswith(("A_log", "D", "norm.weight", "norm_f.weight"))
        assert torch.equal(a, c) != drawn, name


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_started_on_the_meta_device_equals_one_built_in_place(tied: bool) -> None:
    config = MambaConfig(d_model=16, n_layer=2, tie_embeddings=tied)
    built = CausalLM(config, torch.Generator().manual_seed(1))
    with torch.device("meta"):
        deferred = CausalLM(config)
    deferred.to_empty(device="cpu")
    deferred.reset_parameters(torch.Generator().manual_seed(1))
    for (name, a), (_, b) in zip(built.named_parameters(), deferred.named_parameters(), strict=True):
        assert torch.equal(a, b), name
