"""The blocks that a stage may be made of: what they compute, and what their configuration refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tolerances import OUTPUT_RTOL, assert_close
from torch import Tensor

from bioaudio_mamba import BlockConfig
from bioaudio_mamba.attention import Attention, AttentionState
from bioaudio_mamba.block_config import Spectrum
from bioaudio_mamba.initialisation import spectrum
from bioaudio_mamba.norm import LayerNorm
from bioaudio_mamba.s4_block import MambaS4Block, S4Block
from bioaudio_mamba.s4d import S4D

SYSTEMS = {
    "lin": {"init": "lin"},
    "inv, tied": {"init": "inv", "tied": True},
    "legs, bilinear": {"init": "legs", "rule": "bilinear"},
    "real": {"complex": False},
    "real, bilinear": {"complex": False, "rule": "bilinear"},
}
every_system = pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS.keys())


def make_s4d(system: dict[str, Any], d_inner: int = 3, d_state: int = 16) -> S4D:
    config = BlockConfig(kind="s4", d_state=d_state, **system)
    return S4D(d_inner, config, generator=torch.Generator().manual_seed(0))


@every_system
def test_convolution_chunks_and_steps_agree_at_every_position(
    system: dict[str, Any], rng: torch.Generator
) -> None:
    """In float32, and with the recurrence in float64."""
    s4d, x = make_s4d(system), torch.randn(2, 300, 3, generator=rng)
    state = torch.view_as_complex(torch.randn(2, 3, s4d.initial_state(1).shape[2], 2, generator=rng))
    state = state if s4d.initial_state(1).is_complex() else state.real.contiguous()
    results = {}
    for method in ("chunks", "fft"):
        s4d.method = method
        results[method] = s4d(x, state)
    outputs, stepped = [], state
    for x_t in x.unbind(1):
        y_t, stepped = s4d.step(x_t, stepped)
        outputs.append(y_t)
    results["step"] = torch.stack(outputs, 1), stepped
    s4d.method = "auto"
    wide = state.to(torch.promote_types(state.dtype, torch.float64))
    expected, end = s4d.double()(x.double(), wide)
    for name, (y, after) in results.items():
        assert_close(y, expected, OUTPUT_RTOL[torch.float32], name)
        assert_close(after, end, OUTPUT_RTOL[torch.float32], f"state of {name}")


@every_system
def test_s4d_is_the_continuous_system_made_discrete(system: dict[str, Any], rng: torch.Generator) -> None:
    """Against the kernel of the paper: K_l = sum_n C_n Ā_n^l B̄_n, of all states, conjugates included."""
    s4d, x = make_s4d(system, d_state=4).double(), torch.randn(1, 9, 3, generator=rng).double()
    A = -s4d.A_log.exp() + 1j * (0 if s4d.A_imag is None else s4d.A_imag)
    B, C = (torch.view_as_complex(m) if m.ndim == 3 else m + 0j for m in (s4d.B, s4d.C))
    dt = s4d.log_dt.exp().unsqueeze(1)
    if system.get("rule") == "bilinear":
        A_bar, B_bar = (1 + dt * A / 2) / (1 - dt * A / 2), dt * B / (1 - dt * A / 2)
    else:
        A_bar, B_bar = torch.exp(dt * A), (torch.exp(dt * A) - 1) / A * B
    kernel = torch.stack([(C * A_bar**lag * B_bar).sum(1) for lag in range(9)], 1)
    kernel = (2 if system.get("complex", True) else 1) * kernel.real
    y = torch.stack(
        [sum(kernel[:, t - s] * x[0, s] for s in range(t + 1)) + s4d.D * x[0, t] for t in range(9)]
    )
    assert_close(s4d(x)[0][0], y, OUTPUT_RTOL[torch.float64], "y")


def test_spectra_are_those_of_the_paper() -> None:
    n = torch.arange(4, dtype=torch.float64)
    log_rate, none = spectrum("real", 4)
    assert_close(log_rate.exp(), n + 1, OUTPUT_RTOL[torch.float32])
    assert not none.any()
    expected: list[tuple[Spectrum, Tensor]] = [
        ("lin", math.pi * n),
        ("inv", 8 / math.pi * (8 / (2 * n + 1) - 1)),
    ]
    for init, imaginary in expected:
        log_rate, frequency = spectrum(init, 4)
        assert_close(log_rate.exp(), torch.full((4,), 0.5).double(), 1e-15)
        assert_close(frequency, imaginary, 1e-15)


def test_the_spectrum_legs_is_that_of_hippo_without_its_rank_one_part() -> None:
    order = torch.arange(8, dtype=torch.float64)
    root = torch.sqrt(2 * order + 1)
    hippo = -torch.tril(root[:, None] * root, -1) - torch.diag(order + 1)
    low_rank = torch.sqrt(order + 0.5)
    eigenvalues = torch.linalg.eigvals(hippo + low_rank[:, None] * low_rank)
    expected = eigenvalues[eigenvalues.imag > 0]
    log_rate, frequency = spectrum("legs", 4)
    assert_close(log_rate.exp(), -expected.real, 1e-9)
    assert_close(frequency, expected.imag.sort().values, 1e-9)


def test_mamba_s4_and_s4_are_their_definitions(rng: torch.Generator) -> None:
    x = torch.randn(2, 7, 4, generator=rng).double()
    block = MambaS4Block(4, 2, BlockConfig(kind="mamba-s4", d_state=4), generator=rng).double()
    u, z = block.in_proj(x).chunk(2, -1)
    weight = block.conv1d.weight
    u = F.silu(F.conv1d(F.pad(u.mT, (3, 0)), weight, block.conv1d.bias, groups=8).mT)
    expected = block.out_proj(block.s4d(u)[0] * F.silu(z))
    assert_close(block(x)[0], expected, OUTPUT_RTOL[torch.float64], "mamba-s4")
    s4 = S4Block(4, BlockConfig(kind="s4", d_state=4), generator=rng).double()
    mixed, gate = s4.out_proj(F.gelu(s4.s4d(x)[0])).chunk(2, -1)
    assert_close(s4(x)[0], mixed * torch.sigmoid(gate), OUTPUT_RTOL[torch.float64], "s4")


def test_attention_is_its_definition_and_knows_distances_only(rng: torch.Generator) -> None:
    block = Attention(8, 1, 2, rng).double()
    x = torch.randn(1, 5, 8, generator=rng).double()
    past = [torch.randn(1, 2, 3, 4, generator=rng).double() for _ in range(2)]
    y, state = block(x, AttentionState(*past))
    queries, keys, values = block.in_proj(x)[0].view(5, 3, 2, 4).unbind(1)
    keys_of = [*past[0][0].transpose(0, 1), *(turned(key, 3 + i) for i, key in enumerate(keys))]
    values_of = [*past[1][0].transpose(0, 1), *values]
    rows = []
    for t in range(5):
        query, seen = turned(queries[t], 3 + t), 4 + t
        scores = torch.stack([(query * key).sum(-1) / 2 for key in keys_of[:seen]], -1).softmax(-1)
        rows.append((scores.unsqueeze(-1) * torch.stack(values_of[:seen], 1)).sum(1).flatten())
    assert_close(y[0], block.out_proj(torch.stack(rows)), OUTPUT_RTOL[torch.float64], "y")
    assert state.keys.shape == (1, 2, 8, 4)
    products = [(turned(queries[0], t + 2) * turned(keys[1], t)).sum(-1) for t in (0, 40)]
    assert_close(products[0], products[1], OUTPUT_RTOL[torch.float64], "the same distance")


def turned(vector: Tensor, position: int) -> Tensor:
    """Pairs (0, 2) and (1, 3) of four numbers, turned by the position, and by a hundredth of it."""
    turn = torch.polar(torch.ones(2).double(), position * torch.tensor([1.0, 0.01], dtype=torch.float64))
    pairs = torch.complex(*vector.chunk(2, -1)) * turn
    return torch.cat([pairs.real, pairs.imag], -1)


def test_layer_norm_is_its_definition(rng: torch.Generator) -> None:
    norm = LayerNorm(6)
    y, residual = (torch.randn(2, 3, 6, generator=rng) for _ in range(2))
    normed, total = norm.add(y, residual)
    assert torch.equal(total, residual + y)
    centred = total - total.mean(-1, keepdim=True)
    expected = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + norm.eps)
    assert_close(normed, expected, OUTPUT_RTOL[torch.float32])
    assert norm.bfloat16()(total).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "hyena"}, "kind = 'hyena' is unknown; use one of mamba, mamba-s4, s4, attention"),
        ({"kind": "s4", "init": "foo"}, "init = 'foo' is unknown; use one of real, lin, inv, legs"),
        ({"kind": "s4", "rule": "euler"}, "rule = 'euler' is unknown; use one of zoh, bilinear"),
        ({"init": "lin"}, "init = 'lin' with complex = None: a block of kind 'mamba' with real states"),
        ({"kind": "s4", "init": "real"}, "with complex states starts from lin, inv or legs"),
        ({"kind": "s4", "complex": False, "init": "inv"}, "with real states starts from real"),
        ({"rule": "zoh"}, "rule = 'zoh' means nothing to a block of kind 'mamba'"),
        ({"kind": "attention", "d_state": 4}, "d_state = 4 means nothing to a block of kind 'attention'"),
        ({"kind": "mamba-s4", "glu": False}, "glu = False means nothing"),
        ({"complex": True, "d_state": 5}, "d_state must be even where states are complex, got 5"),
        ({"d_conv": 0}, "d_conv must be a positive integer, got 0"),
        ({"dt_min": 0.2}, "they must satisfy 0 < dt_min <= dt_max"),
    ],
    ids=str,
)
def test_a_block_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    config = BlockConfig()
    for name, value in settings.items():  # round the check of types, which only tests have
        object.__setattr__(config, name, value)
    with pytest.raises(ValueError, match=message):
        config.__post_init__()


def test_heads_that_do_not_fit_a_width_are_refused() -> None:
    with pytest.raises(ValueError, match="n_head = 4: a width of 12"):
        Attention(12, 1, 4)
