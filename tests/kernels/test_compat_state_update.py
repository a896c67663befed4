"""mamba_ssm's selective_state_update: ours against the plain formula, and against our scan."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from bioaudio_kernels import compat
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import OUTPUT_RTOL, assert_close
from torch import Tensor

quick = settings(max_examples=25, deadline=None, derandomize=True)


def update_by_formula(state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False):
    """The new state and the output, in double; B and C are by channel, (batch, *channels, dstate)."""
    dt = dt if dt_bias is None else dt + dt_bias
    dt = torch.log1p(dt.exp()) if dt_softplus else dt
    state = state * torch.exp(dt[..., None] * A) + (dt * x)[..., None] * B
    y = (state * C).sum(-1)
    y = y if D is None else y + D * x
    return state, y if z is None else y * z * torch.sigmoid(z)


@st.composite
def updates(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments in float32; with heads or without, and D, z and dt_bias present or not."""
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch, heads, n = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 6])), draw(st.integers(1, 5))
    dim, has_heads = draw(st.integers(1, 4)), draw(st.booleans())
    channels = (heads, dim) if has_heads else (dim,)
    groups = draw(st.sampled_from([g for g in (1, 2, 3) if heads % g == 0])) if has_heads else 1

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    maps = (batch, groups, n) if has_heads or draw(st.booleans()) else (batch, n)
    given = {
        "state": normal(batch, *channels, n),
        "x": normal(batch, *channels),
        "dt": normal(batch, *channels),
        "A": -torch.rand(*channels, n, generator=rng),
        "B": normal(*maps),
        "C": normal(*maps),
        "D": normal(*channels),
        "z": normal(batch, *channels),
        "dt_bias": normal(*channels),
    }
    absent = draw(st.frozensets(st.sampled_from(["D", "z", "dt_bias"])))
    return {name: None if name in absent else tensor for name, tensor in given.items()}


def exact(given: dict[str, Any]) -> dict[str, Any]:
    """In float64, with B and C by channel."""
    wide: dict[str, Any] = {
        name: None if tensor is None else tensor.double() for name, tensor in given.items()
    }
    _, *channels = given["x"].shape
    for name in ("B", "C"):
        map = wide[name] if wide[name].ndim == 3 else wide[name][:, None]
        map = map.repeat_interleave(channels[0] // map.shape[1], 1)
        wide[name] = map if len(channels) == 1 else map[:, :, None]
    return wide


@quick
@given(updates(), st.booleans(), st.sampled_from([torch.float32, torch.bfloat16]))
def test_update_matches_the_formula(given: dict[str, Any], dt_softplus: bool, dtype: torch.dtype) -> None:
    given["state"] = given["state"].to(dtype)
    state, expected = update_by_formula(**exact(given), dt_softplus=dt_softplus)
    y = compat.selective_state_update(**given, dt_softplus=dt_softplus)
    assert_close(y, expected, OUTPUT_RTOL[torch.float32], "y")
    assert_close(given["state"], state, OUTPUT_RTOL[dtype], "state")


@quick
@given(updates(), st.data())
def test_padding_gives_zero_and_touches_nothing(given: dict[str, Any], data: st.DataObject) -> None:
    batch = given["x"].shape[0]
    state, expected = update_by_formula(**exact(given))
    rows = torch.tensor(data.draw(st.permutations(range(6)))[:batch])
    absent = torch.tensor(data.draw(st.lists(st.booleans(), min_size=batch, max_size=batch)))
    pool = torch.full((6, *given["state"].shape[1:]), 7.0)
    pool[rows] = given["state"]
    before = pool.clone()
    given["state"] = pool
    for name in ("x", "dt", "B", "C", "z"):
        if given[name] is not None:
            given[name][absent] = torch.nan
    y = compat.selective_state_update(**given, state_batch_indices=torch.where(absent, -1, rows).int())
    assert torch.equal(y[absent], torch.zeros_like(y[absent]))
    assert_close(y[~absent], expected[~absent], OUTPUT_RTOL[torch.float32], "y")
    assert_close(pool[rows[~absent]], state[~absent], OUTPUT_RTOL[torch.float32], "state")
    untouched = torch.ones(6, dtype=torch.bool)
    untouched[rows[~absent]] = False
    assert torch.equal(pool[untouched], before[untouched])


def test_updates_continue_a_scan(rng: torch.Generator) -> None:
    """Also with a complex A, whose state is complex."""
    u, delta = torch.randn(2, 4, 9, generator=rng), torch.rand(2, 4, 9, generator=rng)
    A = torch.complex(-torch.rand(4, 3, generator=rng), torch.randn(4, 3, generator=rng))
    B, C = (torch.randn(2, 3, 9, 2, generator=rng) for _ in range(2))

    def scan(stop: int) -> Any:
        pairs_B, pairs_C = (map[:, :, :stop].flatten(2) for map in (B, C))
        steps = (u[..., :stop], delta[..., :stop], A, pairs_B, pairs_C)
        return compat.selective_scan_fn(*steps, return_last_state=True)

    whole, last = scan(9)
    _, state = scan(5)
    for t in range(5, 9):
        B_t, C_t = (torch.view_as_complex(map[:, :, t].contiguous()) for map in (B, C))
        y = compat.selective_state_update(state, u[..., t], delta[..., t], A, B_t, C_t)
        assert_close(y, whole[..., t], OUTPUT_RTOL[torch.float32], f"y at {t}")
    assert_close(torch.view_as_real(state), torch.view_as_real(last), OUTPUT_RTOL[torch.float32], "state")


def test_nothing_is_differentiated(rng: torch.Generator) -> None:
    x, A, B = (torch.randn(s, generator=rng).requires_grad_() for s in ((2, 4), (4, 3), (2, 3)))
    assert not compat.selective_state_update(torch.zeros(2, 4, 3), x, x, A, B, B).requires_grad


def test_wrong_arguments_are_named() -> None:
    update = inspect.unwrap(compat.selective_state_update)
    state, x, A, B = torch.zeros(2, 4, 3), torch.zeros(2, 4), torch.zeros(4, 3), torch.zeros(2, 3)
    for changes, message in [
        ({"dt": x[:1]}, r"dt has shape \(1, 4\), expected \(2, 4\)"),
        ({"state": state[:1]}, r"state has shape \(1, 4, 3\), expected \(2, 4, 3\)"),
        ({"A": A[None]}, r"A has shape \(1, 4, 3\), expected \(4, 'dstate'\), dstate above 0"),
        ({"C": B[:, :2]}, r"C has shape \(2, 2\), expected \(2, 3\)"),
        ({"B": torch.zeros(2, 3, 3), "C": torch.zeros(2, 3, 3)}, "B has ngroups=3, which must divide dim=4"),
        ({"x": x[0]}, r"x has shape \(4,\), expected \(batch, dim\) or \(batch, nheads, dim\)"),
        ({"A": A.to(torch.complex64)}, "the state must be complex if A is"),
        ({"D": torch.zeros(4, dtype=torch.int64)}, "D is int64, allowed are"),
        (
            {"state_batch_indices": torch.zeros(2)},
            "state_batch_indices is float32, allowed are int32 and int64",
        ),
    ]:
        given = {"state": state, "x": x, "dt": x, "A": A, "B": B, "C": B} | changes
        with pytest.raises(ValueError, match="^selective_state_update: .*" + message):
            update(**given)
