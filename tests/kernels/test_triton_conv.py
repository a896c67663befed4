"""The Triton causal convolution: on a GPU with -m gpu, and in the interpreter (see test_triton_scan.py).

Every compile-time variant costs seconds on a GPU: there, features come from a short list and only sizes are
drawn. The interpreter draws features too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pytest
import torch
from bioaudio_kernels.causal_conv1d.reference import causal_conv1d_reference, causal_conv1d_step_reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, assert_close
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)]
CHUNK = 8 if INTERPRETED else 64
LENGTHS = [0, 1, 2, 3, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 4]

on_every_device = pytest.mark.parametrize("device", DEVICES)


def several(examples: int) -> settings:
    return settings(
        max_examples=examples, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
    )


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What a kernel is compiled for."""

    dtype: torch.dtype
    width: int
    channels: int
    silu: bool = True
    packed: bool = False
    bias: bool = True
    state: bool = True
    layout: str = "half"
    """Of x: "half" of a wider tensor, or "transposed" in memory."""

    @property
    def activation(self) -> str | None:
        return "silu" if self.silu else None

    def arguments(self, lengths: list[int], device: str) -> list[Any]:
        """x, weight, bias, initial state, borders, for sequences of these lengths (equal unless packed)."""
        generator = torch.Generator().manual_seed(sum(lengths))

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        channels, sequences = self.channels, len(lengths)
        shape = (1, sum(lengths)) if self.packed else (sequences, lengths[0])
        if self.layout == "half":
            x = normal(*shape, 2 * channels).to(device, self.dtype)[..., channels:]
        else:
            x = normal(shape[0], channels, shape[1]).to(device, self.dtype).mT
        borders = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
        return [
            x,
            normal(channels, self.width).to(device),
            normal(channels).to(device) if self.bias else None,
            normal(sequences, self.width - 1, channels).to(device, self.dtype) if self.state else None,
            borders if self.packed else None,
        ]


VARIANTS = {
    "bfloat16": Variant(dtype=torch.bfloat16, width=4, channels=256),
    "bfloat16 of some lanes, packed": Variant(dtype=torch.bfloat16, width=4, channels=48, packed=True),
    "bfloat16 of odd channels": Variant(dtype=torch.bfloat16, width=3, channels=13, bias=False),
    "bfloat16 without state, packed": Variant(
        dtype=torch.bfloat16, width=4, channels=256, packed=True, state=False
    ),
    "bfloat16, transposed": Variant(dtype=torch.bfloat16, width=4, channels=48, layout="transposed"),
    "float16, packed": Variant(dtype=torch.float16, width=2, channels=48, packed=True, silu=False),
    "float32": Variant(dtype=torch.float32, width=4, channels=80),
    "float32, packed": Variant(dtype=torch.float32, width=5, channels=80, packed=True),
    "float32 of one tap": Variant(dtype=torch.float32, width=1, channels=80),
    "float32 of 9 taps, packed": Variant(dtype=torch.float32, width=9, channels=80, packed=True),
    "bfloat16 of 16 taps": Variant(dtype=torch.bfloat16, width=16, channels=48, silu=False),
}


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """torch.empty gives NaN: whatever a kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module", autouse=True)
def _short_chunks() -> Iterator[None]:
    """Chunks of CHUNK steps, so that short sequences have several."""
    from bioaudio_kernels.causal_conv1d import triton_op

    with pytest.MonkeyPatch.context() as patch:
        usual = triton_op.choose_config
        patch.setattr(
            triton_op, "choose_config", lambda *shape, **which: usual(*shape, **which)._replace(chunk=CHUNK)
        )
        yield


def results_and_gradients(
    function: Callable[..., Any], arguments: list[Any], activation: str | None, *, double: bool = False
) -> dict[str, Tensor]:
    *tensors, borders = arguments
    made = [
        None if t is None else (t.detach().double() if double else t.detach()).requires_grad_()
        for t in tensors
    ]
    y, state = function(*made, activation, borders)
    generator = torch.Generator().manual_seed(7)
    pairs = [(t, torch.randn(t.shape, generator=generator).to(arguments[0].dtype).to(t)) for t in (y, state)]
    pairs = [(t, g) for t, g in pairs if t.numel()]
    names = ("x", "weight", "bias", "initial")
    present = {k: t for k, t in zip(names, made, strict=True) if t is not None and t.numel()}
    outputs, weights = zip(*pairs, strict=True)
    gradients = torch.autograd.grad(outputs, list(present.values()), weights)
    return {"y": y, "state": state} | {f"d_{k}": g for k, g in zip(present, gradients, strict=True)}


def assert_matches_reference(variant: Variant, lengths: list[int], device: str) -> None:
    from bioaudio_kernels.causal_conv1d.triton_op import causal_conv1d_triton

    arguments = variant.arguments(lengths, device)
    fast = results_and_gradients(causal_conv1d_triton, arguments, variant.activation)
    exact = results_and_gradients(causal_conv1d_reference, arguments, variant.activation, double=True)
    for name, expected in exact.items():
        low = name in ("y", "state", "d_x", "d_initial")
        table = GRADIENT_RTOL if name.startswith("d_") else OUTPUT_RTOL
        assert_close(fast[name], expected, table[variant.dtype if low else torch.float32], name)


def drawn_lengths(data: st.DataObject, packed: bool) -> list[int]:
    if packed:
        lengths = data.draw(st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=3 if INTERPRETED else 9))
        return lengths if sum(lengths) else [*lengths, 1]
    return [data.draw(st.integers(1, 20 if INTERPRETED else 900))] * data.draw(st.integers(1, 2))


@on_every_device
@pytest.mark.parametrize("name", VARIANTS)
@several(1 if INTERPRETED else 12)
@given(data=st.data())
def test_conv_and_every_gradient_match_reference(name: str, device: str, data: st.DataObject) -> None:
    variant = VARIANTS[name]
    assert_matches_reference(variant, drawn_lengths(data, variant.packed), device)


@pytest.mark.skipif(not INTERPRETED, reason="every example would compile kernels")
@several(8)
@given(data=st.data())
def test_any_variant_matches_reference(data: st.DataObject) -> None:
    flags = {name: data.draw(st.booleans(), name) for name in ("silu", "packed", "bias", "state")}
    variant = Variant(
        dtype=data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16])),
        width=data.draw(st.integers(1, 9)),
        channels=data.draw(st.integers(1, 10)),
        layout=data.draw(st.sampled_from(["half", "transposed"])),
        **flags,
    )
    assert_matches_reference(variant, drawn_lengths(data, variant.packed), "cpu")


@on_every_device
def test_gradients_flow_from_one_result_alone(device: str) -> None:
    from bioaudio_kernels.causal_conv1d.triton_op import causal_conv1d_triton

    arguments = VARIANTS["float32"].arguments([5], device)
    leaves = x, weight, bias, state = [t.requires_grad_() for t in arguments[:4]]
    results = causal_conv1d_triton(x, weight, bias, state, "silu")
    ones = [torch.ones_like(t) for t in results]
    for which in (0, 1):
        weights = [one if i == which else torch.zeros_like(one) for i, one in enumerate(ones)]
        together = torch.autograd.grad(results, leaves, weights, retain_graph=True)
        alone = torch.autograd.grad(results[which], leaves, ones[which], retain_graph=True)
        assert all(torch.equal(a, t) for a, t in zip(alone, together, strict=True))


@on_every_device
@pytest.mark.parametrize("name", ["bfloat16", "float32", "float32 of one tap"])
def test_steps_equal_convolution(name: str, device: str) -> None:
    from bioaudio_kernels.causal_conv1d.triton_op import causal_conv1d_triton
    from bioaudio_kernels.causal_conv1d.triton_step import causal_conv1d_step_triton

    variant = VARIANTS[name]
    x, weight, bias, state, _ = variant.arguments([6, 6], device)
    whole, final_state = causal_conv1d_triton(x, weight, bias, state, "silu")
    for t in range(6):
        y, state = causal_conv1d_step_triton(x[:, t], weight, bias, state, "silu")
        assert_close(y, whole[:, t], OUTPUT_RTOL[variant.dtype], f"y at step {t}")
    assert torch.equal(state, final_state)


@on_every_device
def test_gradients_of_a_step_match_reference(device: str) -> None:
    from bioaudio_kernels.causal_conv1d.triton_step import causal_conv1d_step_triton

    arguments = VARIANTS["float32"].arguments([1, 1], device)
    arguments[0] = arguments[0][:, 0]

    def step(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x, weight, bias, state, activation, _: function(x, weight, bias, state, activation)

    fast = results_and_gradients(step(causal_conv1d_step_triton), arguments, "silu")
    exact = results_and_gradients(step(causal_conv1d_step_reference), arguments, "silu", double=True)
    for name, expected in exact.items():
        assert_close(fast[name], expected, GRADIENT_RTOL[torch.float32], name)


@on_every_device
def test_convolution_gives_the_same_bits_twice(device: str) -> None:
    from bioaudio_kernels.causal_conv1d.triton_op import causal_conv1d_triton

    arguments = VARIANTS["float32"].arguments([11 if INTERPRETED else 3000], device)
    first, second = (results_and_gradients(causal_conv1d_triton, arguments, "silu") for _ in range(2))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@on_every_device
def test_wide_filters_run_too(device: str) -> None:
    variant = Variant(dtype=torch.float32, width=40, channels=3, packed=True)
    assert_matches_reference(variant, [50, 3], device)


@on_every_device
def test_the_end_is_that_of_the_end_alone(device: str, rng: torch.Generator) -> None:
    assert_end_is_that_of_the_end_alone(512, 256, 6, rng, device)


@pytest.mark.gpu
def test_offsets_beyond_2_to_the_31(rng: torch.Generator) -> None:
    assert_end_is_that_of_the_end_alone(2**22, 1024, 520, rng, "cuda")


def assert_end_is_that_of_the_end_alone(
    length: int, tail: int, channels: int, rng: torch.Generator, device: str
) -> None:
    """Forward and backward; to the bit but for gradients at the borders of chunks.

    There the compiler contracts products and sums otherwise than within a chunk (seen in the PTX), so that
    what is the border of a chunk in one of the two only may round to the next number.
    """
    from bioaudio_kernels.causal_conv1d.triton_config import choose_config
    from bioaudio_kernels.causal_conv1d.triton_op import causal_conv1d_triton

    width = 4
    chunk, whole_chunk = (
        choose_config(1, n, channels, width, 2, backward=True).chunk for n in (tail, length)
    )
    assert length % whole_chunk == whole_chunk % chunk == tail % chunk == 0, (
        "borders of one are borders of the other"
    )
    weight = torch.randn(channels, width, generator=rng).to(device)
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(1, length, channels, device=device, dtype=torch.bfloat16, generator=generator)
    y, _ = causal_conv1d_triton(x.requires_grad_(), weight, None, None, "silu")
    (dx,) = torch.autograd.grad(y, x, y.detach())
    alone = x[:, -tail:].detach().requires_grad_()
    y_alone, _ = causal_conv1d_triton(alone, weight, None, None, "silu")
    (dx_alone,) = torch.autograd.grad(y_alone, alone, y_alone.detach())
    known = slice(width - 1, None)  # before, the inputs of the steps before the end count
    y, y_alone, dx, dx_alone = (t.detach()[:, -tail:][:, known] for t in (y, y_alone, dx, dx_alone))
    assert torch.equal(y, y_alone)
    inside = torch.arange(tail, device=device)[known] % chunk >= width - 1
    inside[-16:] = False  # the steps that do not fill a group of loads
    assert torch.equal(dx[:, inside], dx_alone[:, inside])
    assert_close(dx, dx_alone, 2**-7, "dx, to one place of bfloat16")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@on_every_device
def test_operators_pass_opcheck(device: str) -> None:
    from bioaudio_kernels.causal_conv1d import triton_op, triton_step

    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    for name in ("float32", "float32, packed"):
        *tensors, borders = VARIANTS[name].arguments([3], device)
        leaves = [t.detach().clone().requires_grad_() for t in tensors]
        torch.library.opcheck(triton_op._forward, (*leaves, borders, True), test_utils=checks)
        with torch.no_grad():
            y, state = triton_op._forward(*tensors, borders, True)
            torch.library.opcheck(
                triton_op._backward, (y, state, *tensors, borders, True), test_utils=checks[:3]
            )
    x, weight, bias, state, _ = VARIANTS["float32"].arguments([1], device)
    leaves = [t.detach().clone().requires_grad_() for t in (x[:, 0], weight, bias, state)]
    torch.library.opcheck(triton_step._step, (*leaves, True), test_utils=checks)
