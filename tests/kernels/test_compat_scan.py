"""mamba_ssm's selective_scan_fn, mamba_inner_fn and selective_state_update: ours against plain formulas."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bioaudio_kernels import compat
from bioaudio_kernels.compat import mamba_inner
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, assert_close
from torch import Tensor

quick = settings(max_examples=25, deadline=None, derandomize=True)
FORMS = ("constant", "shared", "2 groups", "3 groups")
SIGNATURES = {
    "selective_scan_fn": "u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, "
    "return_last_state=False",
    "mamba_inner_fn": "xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, "
    "out_proj_bias, A, B=None, C=None, D=None, delta_bias=None, B_proj_bias=None, C_proj_bias=None, "
    "delta_softplus=True, checkpoint_lvl=1, b_rms_weight=None, c_rms_weight=None, dt_rms_weight=None, "
    "b_c_dt_rms_eps=1e-06",
    "selective_state_update": "state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False, "
    "state_batch_indices=None",
    "causal_conv1d_fn": "x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False, "
    "final_states_out=None, activation=None",
    "causal_conv1d_update": "x, conv_state, weight, bias=None, activation=None, cache_seqlens=None, "
    "conv_state_indices=None",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_theirs(name: str) -> None:
    parameters = inspect.signature(getattr(compat, name)).parameters.values()
    written = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    assert ", ".join(written) == SIGNATURES[name]


def scan_by_formula(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    """Step by step in mamba_ssm's layout; B and C are (batch, dim, dstate, length)."""
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = torch.log1p(delta.exp())
    h, steps = torch.zeros(*u.shape[:2], A.shape[1], dtype=A.dtype), []
    for t in range(u.shape[2]):
        h = torch.exp(delta[:, :, t, None] * A) * h + (delta * u)[:, :, t, None] * B[..., t]
        steps.append((h * C[..., t]).sum(-1))
    y = torch.stack(steps, -1)
    y = 2 * y.real if A.is_complex() else y
    y = y if D is None else y + D[:, None] * u
    return (y if z is None else y * z * torch.sigmoid(z)), h


def expanded(map: Tensor, dim: int, batch: int, length: int, is_complex: bool) -> Tensor:
    """A map in mamba_ssm's forms as (batch, dim, dstate, length)."""
    if map.ndim == 2:
        return map[None, :, :, None].expand(batch, -1, -1, length)
    if is_complex:
        map = torch.view_as_complex(map.reshape(*map.shape[:-1], length, 2))
    if map.ndim == 3:
        return map[:, None].expand(-1, dim, -1, -1)
    return map.repeat_interleave(dim // map.shape[1], 1)


@st.composite
def scan_problems(draw: st.DrawFn) -> tuple[dict[str, Any], bool]:
    """Float64 arguments of selective_scan_fn that require gradients, and delta_softplus."""
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch, dim, n = draw(st.integers(1, 2)), 6 * draw(st.integers(1, 2)), draw(st.integers(1, 4))
    length, is_complex = draw(st.integers(1, 9)), draw(st.booleans())

    def normal(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=dtype)

    def make_map() -> Tensor:
        form = draw(st.sampled_from(FORMS))
        steps = length * (2 if is_complex else 1)
        if form == "constant":
            return normal(dim, n, dtype=torch.complex128 if is_complex else torch.float64)
        return normal(batch, n, steps) if form == "shared" else normal(batch, int(form[0]), n, steps)

    A = -torch.rand(dim, n, generator=rng, dtype=torch.float64)
    given = {
        "u": normal(batch, dim, length),
        "delta": normal(batch, dim, length).abs(),
        "A": torch.complex(A, normal(dim, n)) if is_complex else A,
        "B": make_map(),
        "C": make_map(),
        "D": normal(dim),
        "z": normal(batch, dim, length),
        "delta_bias": normal(dim).abs(),
    }
    absent = draw(st.frozensets(st.sampled_from(["D", "z", "delta_bias"])))
    return {name: None if name in absent else t.requires_grad_() for name, t in given.items()}, draw(
        st.booleans()
    )


def gradients(outputs: Sequence[Tensor], given: dict[str, Any]) -> dict[str, Tensor]:
    loss = sum((output.abs() ** 2).sum() for output in outputs)
    assert isinstance(loss, Tensor)
    present = {name: tensor for name, tensor in given.items() if tensor is not None}
    return dict(zip(present, torch.autograd.grad(loss, list(present.values())), strict=True))


def assert_all_close(actual: dict[str, Tensor], expected: dict[str, Tensor], rtol: float) -> None:
    for name, value in expected.items():
        a, e = (
            torch.view_as_real(t) if t.is_complex() else t for t in (actual[name].detach(), value.detach())
        )
        assert_close(a, e, rtol, name)


@quick
@given(scan_problems())
def test_scan_and_gradients_match_the_formula(problem: tuple[dict[str, Any], bool]) -> None:
    given, delta_softplus = problem
    batch, dim, length = given["u"].shape
    is_complex = given["A"].is_complex()
    maps = {name: expanded(given[name], dim, batch, length, is_complex) for name in ("B", "C")}
    expected = scan_by_formula(**(given | maps), delta_softplus=delta_softplus)
    out, last = compat.selective_scan_fn(**given, delta_softplus=delta_softplus, return_last_state=True)
    exact, rounded = OUTPUT_RTOL[torch.float64], OUTPUT_RTOL[torch.float32]
    assert_all_close({"out": out, "last": last}, dict(zip(("out", "last"), expected, strict=True)), exact)
    assert_all_close(gradients((out, last), given), gradients(expected, given), GRADIENT_RTOL[torch.float64])
    single: dict[str, Any] = {
        name: None if t is None else t.detach().to(torch.complex64 if t.is_complex() else torch.float32)
        for name, t in given.items()
    }
    alone = compat.selective_scan_fn(**single, delta_softplus=delta_softplus)
    assert isinstance(alone, Tensor)
    assert_close(alone, expected[0].detach(), rounded, "out in float32")


@quick
@given(
    is_complex=st.booleans(),
    absent=st.frozensets(
        st.sampled_from(
            (
                *("conv1d_bias", "out_proj_bias", "D", "delta_bias", "B_proj_bias", "C_proj_bias"),
                *("b_rms_weight", "c_rms_weight", "dt_rms_weight"),
            )
        )
    ),
    given_map=st.sampled_from(["none", "B", "C"]),
    checkpoint_lvl=st.integers(0, 1),
)
def test_inner_and_gradients_match_the_formula(
    is_complex: bool, absent: frozenset[str], given_map: str, checkpoint_lvl: int
) -> None:
    given = inner_arguments(is_complex=is_complex, absent=absent)
    _, dim, length = given["xz"].shape
    dim //= 2
    numbers = given["A"].shape[1] * (2 if is_complex else 1)
    rank = given["delta_proj_weight"].shape[1]
    if given_map != "none":  # constant in time
        given[given_map] = given["A"].detach().clone().requires_grad_()
        given[f"{given_map.lower()}_rms_weight"] = given[f"{given_map}_proj_bias"] = None
        given["x_proj_weight"] = given["x_proj_weight"].detach()[:-numbers].requires_grad_()

    def norm(rows: Tensor, weight: Tensor | None) -> Tensor:
        if weight is None:
            return rows
        return rows / (rows.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    x, z = given["xz"].chunk(2, 1)
    u = F.conv1d(F.pad(x, (3, 0)), given["conv1d_weight"], given["conv1d_bias"], groups=dim)
    u = u * torch.sigmoid(u)
    rows = u.mT @ given["x_proj_weight"].T
    delta = norm(rows[..., :rank] @ given["delta_proj_weight"].T, given["dt_rms_weight"]).mT
    maps, columns = {}, {"B": rows[..., rank : rank + numbers], "C": rows[..., -numbers:]}
    for name in ("B", "C"):
        if name == given_map:
            map = given[name]
        else:
            bias = given[f"{name}_proj_bias"]
            map = norm(
                columns[name] if bias is None else columns[name] + bias, given[f"{name.lower()}_rms_weight"]
            )
            map = map.mT if not is_complex else map.unflatten(-1, (-1, 2)).permute(0, 2, 1, 3).flatten(2)
        maps[name] = expanded(map, dim, 2, length, is_complex)
    y, _ = scan_by_formula(
        u, delta, given["A"], **maps, D=given["D"], z=z, delta_bias=given["delta_bias"], delta_softplus=True
    )
    expected = y.mT @ given["out_proj_weight"].T
    expected = expected if given["out_proj_bias"] is None else expected + given["out_proj_bias"]

    out = compat.mamba_inner_fn(**given, checkpoint_lvl=checkpoint_lvl)
    assert_close(out.detach(), expected.detach(), OUTPUT_RTOL[torch.float64], "out")
    assert_all_close(gradients([out], given), gradients([expected], given), GRADIENT_RTOL[torch.float64])


def inner_arguments(*, is_complex: bool = False, absent: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Float64 arguments of mamba_inner_fn: batch 2, dim 6, dstate 3, rank 2, length 5."""
    rng = torch.Generator().manual_seed(3)
    numbers = 6 if is_complex else 3

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    A = -torch.rand(6, 3, generator=rng, dtype=torch.float64)
    given = {
        "xz": normal(2, 12, 5),
        "conv1d_weight": normal(6, 1, 4),
        "conv1d_bias": normal(6),
        "x_proj_weight": normal(2 + 2 * numbers, 6),
        "delta_proj_weight": normal(6, 2),
        "out_proj_weight": normal(4, 6),
        "out_proj_bias": normal(4),
        "A": torch.complex(A, normal(6, 3)) if is_complex else A,
        "D": normal(6),
        "delta_bias": normal(6),
        "B_proj_bias": normal(numbers),
        "C_proj_bias": normal(numbers),
        "b_rms_weight": normal(numbers),
        "c_rms_weight": normal(numbers),
        "dt_rms_weight": normal(6),
    }
    return {name: None if name in absent else tensor.requires_grad_() for name, tensor in given.items()}


@pytest.mark.parametrize("autocast", [False, True])
def test_checkpointing_makes_again_the_same_bits(autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(torch.is_grad_enabled())
        return convolve(*arguments, **options)

    convolve = mamba_inner.causal_conv1d
    monkeypatch.setattr(mamba_inner, "causal_conv1d", counted)
    found = []
    for checkpoint_lvl in (0, 1):
        given: dict[str, Any] = {
            k: None if t is None else t.detach().float().requires_grad_()
            for k, t in inner_arguments().items()
        }
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = compat.mamba_inner_fn(**given, checkpoint_lvl=checkpoint_lvl)
        found.append({"out": out, **gradients([out.float()], given)})
    assert calls == [True, True, False]  # forward twice, and once more in the second backward pass
    for name, value in found[0].items():
        assert torch.equal(found[1][name], value), name


def test_wrong_arguments_are_named() -> None:
    scan, inner = inspect.unwrap(compat.selective_scan_fn), inspect.unwrap(compat.mamba_inner_fn)
    u, A = torch.randn(2, 6, 5), -torch.rand(6, 3)
    maps = {"B": torch.randn(2, 3, 5), "C": torch.randn(2, 3, 5)}
    with pytest.raises(
        ValueError, match=r"selective_scan_fn: delta has shape \(2, 5, 6\), expected \(batch=2"
    ):
        scan(u, u.mT, A, **maps)
    with pytest.raises(ValueError, match=r"C has shape \(2, 3, 4\), expected \(dim=6, dstate=3\) or"):
        scan(u, u, A, maps["B"], torch.randn(2, 3, 4))
    with pytest.raises(ValueError, match=r"length=5 \(real, imaginary\) pairs of real numbers, 10 in all"):
        scan(u, u, A.to(torch.complex64), **maps)
    given = inner_arguments(absent=frozenset({"dt_rms_weight"}))
    with pytest.raises(ValueError, match="mamba_inner_fn: checkpoint_lvl=2, allowed are 0 and 1"):
        inner(**given, checkpoint_lvl=2)
    with pytest.raises(ValueError, match=r"x_proj_weight has 5 rows, expected 8: 2 for delta and 3 for each"):
        inner(**(given | {"x_proj_weight": given["x_proj_weight"][:5]}))
    with pytest.raises(
        ValueError, match=r"xz has shape \(2, 11, 5\), expected \(batch, 2 \* dim=12, length\)"
    ):
        inner(**(given | {"xz": given["xz"][:, 1:]}))
    with pytest.raises(ValueError, match="b_rms_weight normalises a B that is real and varies in time"):
        inner(**(given | {"B": given["A"]}))
