"""causal_conv1d's causal_conv1d_update: pieces through the cache equal the convolution of the whole.

In plain torch on the CPU; the Triton kernel on a GPU with -m gpu, and on the CPU inside Triton's interpreter:
test_triton_interpreter.py says how that gets a process of its own.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from bioaudio_kernels import compat
from bioaudio_kernels.compat import conv_update
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import OUTPUT_RTOL, assert_close
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)]
quick = settings(max_examples=15 if INTERPRETED else 25, deadline=None, derandomize=True)


def normal(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng)


def check_updates(update: Callable[..., Tensor], data: st.DataObject, device: str) -> None:
    """A sequence in pieces through the cache is the convolution of the whole; `update` has all arguments."""
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    batch, dim, width = (
        data.draw(st.integers(1, 3)),
        data.draw(st.sampled_from([1, 130])),
        data.draw(st.integers(1, 5)),
    )
    state_len = data.draw(st.integers(max(width - 1, 1), 7))
    ring, indexed = data.draw(st.booleans()), data.draw(st.booleans())
    pieces = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    x = normal(rng, batch, dim, sum(pieces))
    weight, bias = normal(rng, dim, width), normal(rng, dim)
    padded = F.pad(x.double(), (width - 1, 0))
    expected = F.silu(F.conv1d(padded, weight.double()[:, None], bias.double(), groups=dim))
    cache = torch.zeros(5 if indexed else batch, dim, state_len, device=device)
    rows = torch.tensor(data.draw(st.permutations(range(5)))[:batch], dtype=torch.int32, device=device)
    padding = data.draw(st.integers(-1, batch - 1)) if indexed else -1
    if padding >= 0:
        rows[padding] = -1
        expected[padding] = 0
    start = 0
    for size in pieces:
        seqlens = torch.full((batch,), start, dtype=torch.int32, device=device) if ring else None
        given = [x[..., start : start + size].to(device), cache, weight.to(device), bias.to(device), seqlens]
        y = update(*given, rows if indexed else None, True)
        assert_close(
            y.cpu(), expected[..., start : start + size], OUTPUT_RTOL[torch.float32], f"y from {start}"
        )
        start += size
    seen = torch.cat([torch.zeros(batch, dim, state_len), x], -1)
    for b in range(batch):
        if b == padding:
            continue
        held = cache[rows[b] if indexed else b].cpu()
        for age in range(min(state_len, start)):
            place = (start - 1 - age) % state_len if ring else state_len - 1 - age
            assert torch.equal(held[:, place], seen[b, :, -1 - age])
    if indexed:
        unused = torch.ones(5, dtype=torch.bool)
        unused[rows[rows >= 0].cpu().long()] = False
        assert not cache.cpu()[unused].any()


@quick
@given(data=st.data())
def test_updates_equal_convolution(data: st.DataObject) -> None:
    def update(x, cache, weight, bias, seqlens, rows, silu):
        assert silu
        if x.shape[-1] == 1:
            x = x[..., 0]
        y = compat.causal_conv1d_update(x, cache, weight, bias, "silu", seqlens, rows)
        assert y.shape == x.shape
        return y.unsqueeze(-1) if y.ndim == 2 else y

    check_updates(update, data, "cpu")


@pytest.mark.parametrize("device", DEVICES)
@quick
@given(data=st.data())
def test_triton_updates_equal_convolution(device: str, data: st.DataObject) -> None:
    from bioaudio_kernels.compat.triton_conv_update import conv_update_triton

    check_updates(conv_update_triton, data, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("state_len", [4, 5], ids=["four taps together", "any cache"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_triton_update_keeps_dtypes(device: str, dtype: torch.dtype, state_len: int) -> None:
    """With strides of x, a bias, and an element of the batch that is padding."""
    from bioaudio_kernels.compat.triton_conv_update import conv_update_triton

    rng = torch.Generator().manual_seed(0)
    sizes = ((3, 140, 1), (4, 70, state_len), (70, 4), (70,))
    x, cache, weight, bias = (normal(rng, *size).to(device, dtype) for size in sizes)
    x, rows = x[:, ::2], torch.tensor([2, -1, 0], device=device)
    before = cache.cpu().clone()
    y = conv_update_triton(x, cache, weight, bias, None, rows, True)
    held = before.clone()
    expected = conv_update._update(x.cpu(), held, weight.cpu(), bias.cpu(), None, rows.cpu(), True)
    assert y.dtype == dtype
    assert_close(y.cpu(), expected, OUTPUT_RTOL[dtype], "y")
    assert torch.equal(cache.cpu(), held)
    assert torch.equal(held[[1, 3]], before[[1, 3]])


@pytest.mark.parametrize("device", DEVICES)
def test_triton_update_passes_opcheck(device: str) -> None:
    from bioaudio_kernels.compat import triton_conv_update

    x, cache, weight = (torch.randn(s, device=device) for s in ((2, 3, 1), (2, 3, 4), (3, 4)))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(
        triton_conv_update._conv_update, (x, cache, weight, None, None, None, True), test_utils=checks
    )


def test_wrong_arguments_are_named() -> None:
    update = inspect.unwrap(compat.causal_conv1d_update)
    x, weight, cache = torch.zeros(2, 3, 5), torch.zeros(3, 4), torch.zeros(2, 3, 3)
    for changes, message in [
        ({"activation": "relu"}, "activation='relu', allowed are None, 'silu' and 'swish'"),
        ({"conv_state": cache[..., 1:]}, r"conv_state has shape \(2, 3, 2\), .* at least width - 1 = 3"),
        ({"cache_seqlens": torch.zeros(3)}, r"cache_seqlens has shape \(3,\), expected \(batch=2,\)"),
        (
            {"conv_state_indices": torch.zeros(2)},
            "conv_state_indices is float32, allowed are int32",
        ),
        ({"weight": weight[:2]}, r"weight has shape \(2, 4\), expected \(dim=3, width\)"),
        ({"bias": weight}, r"bias has shape \(3, 4\), expected \(dim=3,\)"),
        ({"x": x[0, 0]}, r"x has shape \(5,\), expected \(batch, dim\) or \(batch, dim, length\)"),
    ]:
        with pytest.raises(ValueError, match="^causal_conv1d_update: .*" + message):
            update(**({"x": x, "conv_state": cache, "weight": weight} | changes))
