"""The causal convolution: its definition, and that the compiled CPU path agrees, gradients included."""

from __future__ import annotations

import inspect
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bioaudio_kernels import Backend, causal_conv1d, causal_conv1d_step
from bioaudio_kernels.causal_conv1d import Activation
from bioaudio_kernels.causal_conv1d.cpu import _conv, _conv_backward
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_cases import CONV_NAMES, cast, gradients, random_like
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, assert_close

quick = settings(max_examples=20, deadline=None, derandomize=True)


@st.composite
def conv_problems(
    draw: st.DrawFn, max_length: int = 70, sequences: int | None = None
) -> tuple[list[Any], Activation | None]:
    """Float64 arguments of `causal_conv1d`, requiring gradients, and an activation.

    With `sequences` the batch is 1 and the initial state has as many rows.
    """
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch, length = draw(st.integers(1, 3)) if sequences is None else 1, draw(st.integers(1, max_length))
    channels, width = draw(st.integers(1, 70)), draw(st.integers(1, 7))
    states = (sequences or batch, width - 1, channels)
    shapes = [(batch, length, channels), (channels, width), (channels,), states]
    tensors = [torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_() for shape in shapes]
    given = [t if i < 2 or draw(st.booleans()) else None for i, t in enumerate(tensors)]
    return given, draw(st.sampled_from([None, "silu"]))


@quick
@given(conv_problems())
def test_reference_matches_torch_convolution(problem: tuple[list[Any], Activation | None]) -> None:
    (x, weight, bias, state), activation = problem
    y, final_state = causal_conv1d(x, weight, bias, state, activation=activation, backend="reference")
    width = weight.shape[1]
    before = state if state is not None else x.new_zeros(x.shape[0], width - 1, x.shape[2])
    inputs = torch.cat([before, x], 1)
    expected = F.conv1d(inputs.mT, weight[:, None], bias, groups=x.shape[2]).mT
    assert_close(y, F.silu(expected) if activation else expected, OUTPUT_RTOL[torch.float64], "y")
    assert torch.equal(final_state, inputs[:, x.shape[1] :])


@quick
@given(conv_problems())
def test_cpu_matches_reference(problem: tuple[list[Any], Activation | None]) -> None:
    exact, activation = problem
    fast = cast(exact, torch.float32)
    expected = causal_conv1d(*exact, activation=activation, backend="reference")
    actual = causal_conv1d(*fast, activation=activation, backend="cpu")
    for name, a, e in zip(("y", "final state"), actual, expected, strict=True):
        assert_close(a, e, OUTPUT_RTOL[torch.float32], name)
    weights = random_like(expected)
    names = [name for name, tensor in zip(CONV_NAMES, exact, strict=True) if tensor is not None]
    for name, a, e in zip(
        names, gradients(actual, fast, weights), gradients(expected, exact, weights), strict=True
    ):
        assert_close(a, e, GRADIENT_RTOL[torch.float32], f"gradient of {name}")


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@quick
@given(conv_problems(max_length=20), st.data())
def test_split_sequence_equals_whole(
    backend: Backend, problem: tuple[list[Any], Activation | None], data: st.DataObject
) -> None:
    exact, activation = problem
    dtype = torch.float64 if backend == "reference" else torch.float32
    arguments = cast(exact, dtype)
    x, weight, bias, state = arguments
    whole = causal_conv1d(*arguments, activation=activation, backend=backend)
    cuts = sorted(data.draw(st.lists(st.integers(0, x.shape[1]), max_size=3)))
    parts = []
    for start, end in zip([0, *cuts], [*cuts, x.shape[1]], strict=True):
        y, state = causal_conv1d(x[:, start:end], weight, bias, state, activation=activation, backend=backend)
        parts.append(y)
    split = (torch.cat(parts, 1), state)
    weights = random_like(whole)
    for name, a, e in zip(("y", "final state"), split, whole, strict=True):
        assert_close(a, e, OUTPUT_RTOL[dtype], name)
    for a, e in zip(gradients(split, arguments, weights), gradients(whole, arguments, weights), strict=True):
        assert_close(a, e, GRADIENT_RTOL[dtype], "gradient")


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@quick
@given(st.integers(1, 5), st.data())
def test_packed_sequences_equal_each_alone(
    backend: Backend, index_dtype: torch.dtype, sequences: int, data: st.DataObject
) -> None:
    """Outputs, states and every gradient; sequences may be empty, or shorter than the filter."""
    exact, activation = data.draw(conv_problems(max_length=40, sequences=sequences))
    dtype = torch.float64 if backend == "reference" else torch.float32
    arguments = cast(exact, dtype)
    x, weight, bias, states = arguments
    cuts = data.draw(st.lists(st.integers(0, x.shape[1]), min_size=sequences - 1, max_size=sequences - 1))
    borders = [0, *sorted(cuts), x.shape[1]]
    packed = causal_conv1d(
        x,
        weight,
        bias,
        states,
        cu_seqlens=torch.tensor(borders, dtype=index_dtype),
        activation=activation,
        backend=backend,
    )
    parts = []
    for i, (start, stop) in enumerate(pairwise(borders)):
        state = None if states is None else states[i : i + 1]
        parts.append(
            causal_conv1d(x[:, start:stop], weight, bias, state, activation=activation, backend="reference")
        )
    alone = (torch.cat([y for y, _ in parts], 1), torch.cat([state for _, state in parts]))
    weights = random_like(packed)
    for name, a, e in zip(("y", "final state"), packed, alone, strict=True):
        assert_close(a, e, OUTPUT_RTOL[dtype], name)
    for a, e in zip(gradients(packed, arguments, weights), gradients(alone, arguments, weights), strict=True):
        assert_close(a, e, GRADIENT_RTOL[dtype], "gradient")


@quick
@given(conv_problems(max_length=10))
def test_step_equals_convolution_at_every_position(problem: tuple[list[Any], Activation | None]) -> None:
    exact, activation = problem
    x, weight, bias, state = cast(exact, torch.float32)
    with torch.no_grad():
        whole, final_state = causal_conv1d(x, weight, bias, state, activation=activation, backend="cpu")
        state = torch.zeros_like(final_state) if state is None else state
        for t in range(x.shape[1]):
            y, state = causal_conv1d_step(x[:, t], weight, bias, state, activation=activation)
            assert_close(y, whole[:, t], OUTPUT_RTOL[torch.float32], f"y at {t}")
    assert torch.equal(state, final_state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_input_keeps_its_dtype(dtype: torch.dtype, rng: torch.Generator) -> None:
    x = torch.randn(2, 40, 12, generator=rng).to(dtype)
    weight = torch.randn(12, 4, generator=rng)
    y, state = causal_conv1d(x, weight, activation="silu", backend="cpu")
    expected, _ = causal_conv1d(x.double(), weight.double(), activation="silu")
    assert (y.dtype, state.dtype) == (dtype, dtype)
    assert torch.equal(state, x[:, -3:])
    assert_close(y, expected, OUTPUT_RTOL[dtype], "y")


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("length", [0, 1, 2])
def test_short_input_keeps_the_older_state(backend: Backend, length: int, rng: torch.Generator) -> None:
    x, state = (torch.randn(1, n, 5, generator=rng) for n in (length, 3))
    y, final_state = causal_conv1d(x, torch.randn(5, 4, generator=rng), None, state, backend=backend)
    assert y.shape == x.shape
    assert torch.equal(final_state, torch.cat([state, x], 1)[:, -3:])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_no_packed_sequences_at_all(backend: Backend) -> None:
    x, weight = torch.ones(1, 0, 5), torch.ones(5, 4)
    y, state = causal_conv1d(x, weight, cu_seqlens=torch.tensor([0]), backend=backend)
    assert (y.shape, state.shape) == ((1, 0, 5), (0, 3, 5))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"x": torch.ones(2, 6)}, r"x has shape \(2, 6\), expected \(batch, length, channels\)"),
        ({"weight": torch.ones(4, 3)}, r"weight has shape \(4, 3\), expected \(channels=5, width\)"),
        ({"weight": torch.ones(5, 0)}, "weight has width 0; it needs at least one tap"),
        ({"bias": torch.ones(5).int()}, "bias is int32, allowed are float32, bfloat16, float16 and float64"),
        ({"bias": torch.ones(5, device="meta")}, "bias lies on meta, but x lies on cpu"),
        ({"initial_state": torch.ones(2, 4, 5)}, "initial_state holds 4 inputs, width 3 needs width - 1"),
        ({"initial_state": torch.ones(1, 2, 5)}, "initial_state has shape"),
        ({"activation": "relu"}, "activation='relu' is unknown; use None or 'silu'"),
        ({"cu_seqlens": torch.tensor([0, 6])}, "cu_seqlens packs sequences into one row, but the batch is 2"),
        ({"cu_seqlens": torch.tensor([0, 4, 3, 6]), "x": torch.ones(1, 6, 5)}, "sequence 1 has length -1"),
        (
            {
                "cu_seqlens": torch.tensor([0, 4, 6]),
                "x": torch.ones(1, 6, 5),
                "initial_state": torch.ones(1, 2, 5),
            },
            "initial_state has 1 sequences, but cu_seqlens has 2",
        ),
        (
            {"cu_seqlens": torch.tensor([0, 6], device="meta"), "x": torch.ones(1, 6, 5)},
            "cu_seqlens lies on meta, but x lies on cpu",
        ),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], reason: str) -> None:
    arguments: dict[str, Any] = {"x": torch.ones(2, 6, 5), "weight": torch.ones(5, 3)}
    with pytest.raises(ValueError, match=r"^causal_conv1d: .*" + reason):
        # Without the run-time type checks of the tests, as users call it.
        inspect.unwrap(causal_conv1d)(**arguments | change)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_operators_pass_opcheck_packed() -> None:
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    shapes = ((1, 5, 9), (9, 4), (9,), (2, 3, 9))
    x, weight, bias, states = (torch.randn(shape, requires_grad=True) for shape in shapes)
    borders = torch.tensor([0, 2, 5])
    torch.library.opcheck(_conv, (x, weight, bias, states, True, borders), test_utils=tests)
    fixed = [tensor.detach() for tensor in (x, x, weight, bias, states)]
    torch.library.opcheck(_conv_backward, (*fixed, True, borders), test_utils=tests[:3])
