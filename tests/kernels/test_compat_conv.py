"""causal_conv1d's causal_conv1d_fn: ours against plain formulas."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as F
from bioaudio_kernels import compat
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, assert_close
from torch import Tensor

EXACT = OUTPUT_RTOL[torch.float64]
quick = settings(max_examples=25, deadline=None, derandomize=True)


def normal(rng: torch.Generator, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=rng, dtype=dtype)


def convolve_by_formula(x: Tensor, weight: Tensor, bias: Tensor | None, before: Tensor) -> Tensor:
    """SiLU of the convolution of one sequence after the inputs `before`."""
    y = F.conv1d(torch.cat([before, x], -1), weight[:, None], bias, groups=x.shape[1])
    return y * torch.sigmoid(y)


@quick
@given(st.data())
def test_convolution_and_states_match_the_formula(data: st.DataObject) -> None:
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    batch, dim, length = (data.draw(st.integers(1, size)) for size in (2, 5, 9))
    width = data.draw(st.integers(1, 5))
    x = normal(rng, batch, dim, length)
    x = x.mT.contiguous().mT if data.draw(st.booleans(), label="channel last") else x
    before = normal(rng, batch, dim, width - 1) if data.draw(st.booleans()) else None
    bias = normal(rng, dim) if data.draw(st.booleans()) else None
    given = [t for t in (x, normal(rng, dim, width), bias, before) if t is not None]
    for tensor in given:
        tensor.requires_grad_()
    zeros = torch.zeros(batch, dim, width - 1, dtype=x.dtype) if before is None else before
    expected = convolve_by_formula(x, given[1], bias, zeros)
    expected_final = torch.cat([zeros, x], -1)[..., length:]
    buffer = torch.empty(batch, dim, width - 1, dtype=x.dtype) if data.draw(st.booleans()) else None
    y, final = compat.causal_conv1d_fn(
        x,
        given[1],
        bias,
        None,
        before,
        True,
        buffer,
        activation=data.draw(st.sampled_from(["silu", "swish"])),
    )
    assert buffer is None or final is buffer
    assert_close(y.detach(), expected.detach(), EXACT, "y")
    assert torch.equal(final, expected_final)
    losses = [y.square().sum() + final.sum(), expected.square().sum() + expected_final.sum()]
    for a, e in zip(*(torch.autograd.grad(loss, given) for loss in losses), strict=True):
        assert_close(a, e, GRADIENT_RTOL[torch.float64], "gradient")
    plain = compat.causal_conv1d_fn(x, given[1], bias, initial_states=before)
    assert isinstance(plain, Tensor)
    assert_close((plain * torch.sigmoid(plain)).detach(), expected.detach(), EXACT, "y without activation")


@quick
@given(st.data())
def test_packed_sequences_are_convolved_apart(data: st.DataObject) -> None:
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    batch, dim, width, length = 2, 3, data.draw(st.integers(1, 5)), data.draw(st.integers(1, 9))
    rows = [data.draw(st.lists(st.integers(0, 3), min_size=length, max_size=length)) for _ in range(batch)]
    seq_idx = torch.tensor([sorted(row) for row in rows], dtype=torch.int32) - 1  # the -1 are padding
    seq_idx = seq_idx.flip(1) if data.draw(st.booleans()) else seq_idx
    x, weight, bias = normal(rng, batch, dim, length), normal(rng, dim, width), normal(rng, dim)
    before = normal(rng, batch, dim, width - 1) if data.draw(st.booleans()) else None
    given = [t.requires_grad_() for t in (x, weight, bias, before) if t is not None]
    parts = []
    for b in range(batch):
        states, columns, previous = before, [], seq_idx[b, 0]
        for t in range(length):
            if t > 0 and seq_idx[b, t] != previous:
                states, columns, previous = None, [], seq_idx[b, t]
            columns.append(x[b : b + 1, :, t])
            zeros = torch.zeros(1, dim, width - 1, dtype=x.dtype)
            y = convolve_by_formula(
                torch.stack(columns, -1), weight, bias, zeros if states is None else states[b, None]
            )
            parts.append(y[..., -1] * (seq_idx[b, t] >= 0))
    expected = torch.cat(parts).view(batch, length, dim).mT
    compat.causal_conv1d_fn(x, weight, bias, seq_idx)  # reads seq_idx, which the next call remembers
    y = compat.causal_conv1d_fn(x, weight, bias, seq_idx, before, activation="silu")
    assert isinstance(y, Tensor)
    assert_close(y.detach(), expected.detach(), EXACT, "y")
    found = (torch.autograd.grad(o.square().sum(), given, allow_unused=True) for o in (y, expected))
    for a, e in zip(*found, strict=True):
        assert_close(a, torch.zeros_like(a) if e is None else e, GRADIENT_RTOL[torch.float64], "gradient")
    seq_idx.fill_(0)  # written to, it is read again
    whole = compat.causal_conv1d_fn(x, weight, bias, seq_idx, before, activation="silu")
    assert isinstance(whole, Tensor)
    one = convolve_by_formula(
        x, weight, bias, x.new_zeros(batch, dim, width - 1) if before is None else before
    )
    assert_close(whole.detach(), one.detach(), EXACT, "y")


def test_wrong_arguments_are_named() -> None:
    convolve = inspect.unwrap(compat.causal_conv1d_fn)
    x, weight, states = torch.zeros(2, 3, 5), torch.zeros(3, 4), torch.zeros(2, 3, 3)
    for changes, message in [
        ({"activation": "relu"}, "activation='relu', allowed are None, 'silu' and 'swish'"),
        ({"initial_states": states[..., 1:]}, "initial_states holds 2 inputs, expected width - 1 = 3"),
        ({"seq_idx": torch.zeros(2, 4)}, r"seq_idx has shape \(2, 4\), expected \(batch=2, length=5\)"),
        ({"seq_idx": torch.zeros(2, 5), "return_final_states": True}, "is not allowed with seq_idx"),
    ]:
        with pytest.raises(ValueError, match="^causal_conv1d_fn: .*" + message):
            convolve(**({"x": x, "weight": weight} | changes))
