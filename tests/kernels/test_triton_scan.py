"""The Triton selective scan: on a GPU with -m gpu, and on the CPU inside Triton's interpreter.

Kernels are interpreted only if TRITON_INTERPRET=1 was set before Triton was imported, so the interpreter
needs a process of its own: test_triton_interpreter.py runs this file in one. There a step takes milliseconds;
on a GPU it is new compile-time variants of the kernels that take seconds. So sizes differ, and on a GPU tests
share variants: lengths are odd, or else every stride but a unit one is a multiple of 16.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from bioaudio_kernels.selective_scan.reference import selective_scan_reference
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scan_cases import SCAN_NAMES, ScanCase, gradients, random_like, scan_cases
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, assert_close
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)]
SINGLE = OUTPUT_RTOL[torch.float32]

on_every_device = pytest.mark.parametrize("device", DEVICES)


def size(interpreted: int, gpu: int) -> int:
    return interpreted if INTERPRETED else gpu


def several(examples: int) -> settings:
    return settings(
        max_examples=examples, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
    )


# (batch, length), and (length, borders) of packed sequences: empty ones and single steps, first, last and
# between, and multiples of a chunk. A chunk here has 2 steps in the interpreter and 128 on a GPU.
ROWS = [(1, 3)] if INTERPRETED else [(1, 127), (2, 129), (3, 301)]
PACKED = (
    [(4, (0, 1))]
    if INTERPRETED
    else [(1, (0,)), (301, (300,)), (449, (0, 128, 128, 129, 385, 449)), (641, (256, 512, 600))]
)
D_INNER, D_STATE = size(2, 128), size(1, 8)
"""Of the tests that are not about forms; they share one variant of every kernel."""


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """torch.empty gives NaN: whatever a kernel forgets to write, or reads too early, shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def plain_case(batch: int, length: int, **changes: Any) -> ScanCase:
    return ScanCase(batch=batch, length=length, d_inner=D_INNER, d_state=D_STATE, **changes)


def short_chunks(case: ScanCase):
    """The built-in configuration with chunks short enough for a test to have several."""
    from bioaudio_kernels.selective_scan.triton_config import choose_config

    maps = (case.B, case.C)
    group_size = case.d_inner // (case.n_groups if "grouped" in maps else 1)
    plain = not case.complex and "constant" not in maps
    config = choose_config(case.batch, case.length, case.d_inner, group_size, plain=plain)
    changes = {"chunk": 4, "sub": 2, "segment": 2} if INTERPRETED else {"chunk": 128, "segment": 3}
    return config._replace(**changes, output_unroll=2)


def slice_of_wider(tensor: Tensor, before: int, after: int, channels_first: bool = False) -> Tensor:
    """A copy between NaN, which nobody should read."""
    batch, length, width = tensor.shape
    if channels_first:
        wide = tensor.new_full((batch, before + width + after, length), torch.nan).mT
    else:
        wide = tensor.new_full((batch, length, before + width + after), torch.nan)
    wide[..., before : before + width] = tensor
    return wide[..., before : before + width]


def make_arguments(
    case: ScanCase,
    device: str,
    *,
    dtype: torch.dtype = torch.float32,
    dt_dtype: torch.dtype | None = None,
    channels_first: bool = False,
) -> dict[str, Any]:
    """Arguments as a Mamba block makes them: x and z halves of one tensor, B and C slices of another."""
    dtypes = dict.fromkeys(("x", "B", "C", "z"), dtype) | {"dt": dt_dtype or dtype}
    margins = {"x": (0, case.d_inner), "z": (case.d_inner, 0)}
    values = case.d_state * case.n_groups
    margins |= {"B": (16, values), "C": (16 + values, 0)}
    made: dict[str, Any] = {}
    for name, exact in zip(SCAN_NAMES, case.tensors(), strict=True):
        made[name] = None
        if exact is not None:
            wanted = torch.complex64 if exact.is_complex() else dtypes.get(name, torch.float32)
            tensor = exact.detach().to(device, wanted)
            if name in margins and tensor.ndim > 2:
                first = channels_first and name in ("x", "z")
                sliced = slice_of_wider(tensor.flatten(2), *margins[name], first)
                tensor = sliced if tensor.ndim == 3 else sliced.unflatten(2, tensor.shape[2:])
            made[name] = tensor.requires_grad_()
    return made


def options(case: ScanCase, device: str) -> dict[str, Any]:
    made = case.options()
    return made if case.cuts is None else made | {"cu_seqlens": made["cu_seqlens"].to(device)}


def results_and_gradients(
    function, arguments: dict[str, Any], *, exact: bool = False, **options: Any
) -> dict[str, Tensor]:
    """y, the final state and every gradient, from fixed random gradients of both; in float64 if `exact`."""
    leaves = dict(arguments)
    for name, tensor in arguments.items():
        if tensor is not None:
            wanted = tensor.dtype
            if exact:
                wanted = torch.complex128 if tensor.is_complex() else torch.float64
            leaves[name] = tensor.detach().to(wanted).requires_grad_()
    outputs = function(*leaves.values(), **options)
    dy, d_final = random_like(outputs)
    weights = (dy.to(arguments["x"].dtype), d_final)
    names = ("y", "final_state", *(f"d_{name}" for name, leaf in leaves.items() if leaf is not None))
    every = (*outputs, *gradients(outputs, list(leaves.values()), weights))
    return dict(zip(names, every, strict=True))


def assert_all_close(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, exact in expected.items():
        table = GRADIENT_RTOL if name.startswith("d_") else OUTPUT_RTOL
        assert_close(actual[name], exact, table[actual[name].dtype.to_real()], name)


def assert_matches_reference(case: ScanCase, device: str, config: Any = None, **layout: Any) -> None:
    from bioaudio_kernels.selective_scan.triton_op import selective_scan_triton

    arguments, given_options = make_arguments(case, device, **layout), options(case, device)
    actual = results_and_gradients(selective_scan_triton, arguments, **given_options, config=config)
    expected = results_and_gradients(selective_scan_reference, arguments, exact=True, **given_options)
    assert actual["y"].dtype == arguments["x"].dtype
    assert actual["final_state"].dtype == (torch.complex64 if case.complex else torch.float32)
    assert_all_close(actual, expected)


class UnequalGroups(ScanCase):
    """Of six groups, B has every third and C every second: two and three."""

    def tensors(self) -> list[Any]:
        tensors = super().tensors()
        return [
            tensor[:, :, :: {"B": 3, "C": 2}[name]] if name in "BC" else tensor
            for name, tensor in zip(SCAN_NAMES, tensors, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One compile-time variant of the kernels, and the shapes to run it on."""

    d_inner: int
    d_state: int
    fields: dict[str, Any] = field(default_factory=dict)
    """Of the case, but for its sizes, packing and seed."""
    packed: bool = False
    values: int = 16
    """That a program holds, in the interpreter, so that a few states take several launches."""
    kind: type[ScanCase] = ScanCase
    layout: dict[str, Any] = field(default_factory=dict)
    """For `make_arguments`."""

    def cases(self) -> Iterator[ScanCase]:
        sizes: dict[str, Any] = {"d_inner": self.d_inner, "d_state": self.d_state} | self.fields
        if self.packed:
            for length, cuts in PACKED:
                yield self.kind(batch=1, length=length, cuts=cuts, **sizes)
        else:
            for batch, length in ROWS:
                yield self.kind(batch=batch, length=length, **sizes)


def forms(*complex_names: str, reverse: bool = False, groups: int = 1, **fields: Any) -> dict[str, Any]:
    return {"complex": frozenset(complex_names), "reverse": reverse, "n_groups": groups} | fields


BFLOAT16, FLOAT16 = {"dtype": torch.bfloat16}, {"dtype": torch.float16}
IN_WORDS: dict[str, Any] = {"d_inner": size(64, 256), "d_state": size(4, 16)}
"""Rows of B and C are aligned and a multiple of a 64-bit word: what a real model has."""
ABSENT = {"absent": frozenset({"D", "z", "dt_bias", "initial_state"})}
VARIANTS = {
    "bfloat16 in words": Variant(**IN_WORDS, layout=BFLOAT16),
    "float16 in words": Variant(**IN_WORDS, layout=FLOAT16),
    "float32 in words": Variant(**IN_WORDS, packed=not INTERPRETED),
    "dt in float32 beside bfloat16": Variant(
        d_inner=size(2, 96), d_state=size(2, 12), layout=BFLOAT16 | {"dt_dtype": torch.float32}
    ),
    "one channel, one state": Variant(d_inner=1, d_state=1, fields=ABSENT),
    "channels first, groups, reverse": Variant(
        d_inner=size(2, 48), d_state=size(1, 5), layout={"channels_first": True},
        fields=forms(B="grouped", C="grouped", groups=2, reverse=True),
    ),
    "unequal groups": Variant(
        d_inner=size(6, 96), d_state=size(1, 5), kind=UnequalGroups,
        fields=forms(B="grouped", C="grouped", groups=6, absent=frozenset({"z"})),
    ),
    "packed, reverse, grouped C": Variant(
        d_inner=size(2, 80), d_state=size(1, 7), packed=True, layout=BFLOAT16,
        fields=forms(C="grouped", groups=2, reverse=True),
    ),
    "17 states, constant C": Variant(
        d_inner=size(2, 40), d_state=size(3, 17), values=2,
        fields=forms(C="constant", absent=frozenset({"D"})),
    ),
    "40 states": Variant(d_inner=size(2, 24), d_state=size(5, 40), values=2, packed=not INTERPRETED),
    "constant dt, B and C without softplus, reverse": Variant(
        d_inner=size(3, 72), d_state=size(2, 8),
        fields=forms(dt="constant", B="constant", C="constant", reverse=True, dt_softplus=False),
    ),
    "complex A alone, packed, reverse": Variant(
        d_inner=size(2, 40), d_state=size(1, 5), packed=True, layout=BFLOAT16,
        fields=forms("A", reverse=True, absent=frozenset({"dt_bias"})),
    ),
    "complex, 9 states": Variant(
        d_inner=size(2, 24), d_state=size(3, 9), values=4, fields=forms("A", "B", "C")
    ),
    "complex, groups, constant B": Variant(
        d_inner=size(2, 66), d_state=size(1, 3), packed=True,
        fields=forms("A", "B", "C", B="constant", C="grouped", groups=2),
    ),
}  # fmt: skip
if not INTERPRETED:
    VARIANTS["256 states"] = Variant(d_inner=32, d_state=256)


@on_every_device
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_every_form_and_every_gradient_match_reference(
    device: str, variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bioaudio_kernels.selective_scan import triton_config

    if INTERPRETED:
        monkeypatch.setattr(triton_config, "MAX_VALUES", variant.values)
    changes = {"chunk": 2, "segment": 1} if INTERPRETED else {}
    for case in variant.cases():
        config = short_chunks(case)._replace(**changes)
        assert_matches_reference(case, device, config, **variant.layout)


@st.composite
def random_cases(draw: st.DrawFn) -> ScanCase:
    """In the interpreter of every form, on a GPU of every shape."""
    if INTERPRETED:
        return draw(scan_cases(max_length=5, max_d_inner=2, max_d_state=2))
    length = draw(st.integers(1, 600))
    cuts = draw(
        st.none() | st.lists(st.integers(0, length), max_size=6).map(lambda cuts: tuple(sorted(cuts)))
    )
    batch = 1 if cuts is not None else draw(st.integers(1, 4))
    return plain_case(batch, length, cuts=cuts, seed=draw(st.integers(0, 2**31)))


@on_every_device
@several(size(3, 25))
@example(case=plain_case(1, 1))
@given(case=random_cases())
def test_random_scans_match_reference(device: str, case: ScanCase) -> None:
    assert_matches_reference(case, device, short_chunks(case))


@on_every_device
def test_packed_sequences_meet_at_edges_of_chunks(device: str) -> None:
    chunk = size(4, 128)
    cuts = (0, chunk, chunk, chunk + 1, 3 * chunk + 1)
    case = plain_case(1, 3 * chunk + 1, cuts=cuts)
    assert_matches_reference(case, device, short_chunks(case))


@on_every_device
def test_built_in_configuration_matches_reference(device: str) -> None:
    assert_matches_reference(plain_case(2, size(3, 1500)), device)


@on_every_device
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@several(size(1, 10))
@given(data=st.data())
def test_splits_with_carried_state_equal_one_pass(device: str, reverse: bool, data: st.DataObject) -> None:
    """Gradients too: those of a part reach the one before it through the state."""
    from bioaudio_kernels.selective_scan.triton_op import selective_scan_triton

    case = plain_case(size(1, 2), size(5, 500), reverse=reverse)
    cuts = data.draw(st.lists(st.integers(1, case.length - 1), min_size=1, max_size=size(1, 4), unique=True))

    def in_parts(*tensors: Any, **options: Any) -> tuple[Tensor, Tensor]:
        arguments = dict(zip(SCAN_NAMES, tensors, strict=True))
        parts, state = [], arguments["initial_state"]
        borders = list(pairwise([0, *sorted(cuts), case.length]))
        for start, stop in reversed(borders) if reverse else borders:
            moving = {name: arguments[name][:, start:stop] for name in ("x", "dt", "B", "C", "z")}
            now: dict[str, Any] = arguments | moving | {"initial_state": state}
            y, state = selective_scan_triton(*now.values(), **options)
            parts.append(y)
        return torch.cat(parts[::-1] if reverse else parts, 1), state

    arguments = make_arguments(case, device)
    given_options: dict[str, Any] = {"config": short_chunks(case), **options(case, device)}
    whole = results_and_gradients(selective_scan_triton, arguments, **given_options)
    assert_all_close(results_and_gradients(in_parts, arguments, **given_options), whole)


@on_every_device
@pytest.mark.parametrize("i", [0, 1], ids=["y", "final state"])
def test_either_output_alone_has_gradients(device: str, i: int) -> None:
    from bioaudio_kernels.selective_scan.triton_op import selective_scan_triton

    case = plain_case(1, size(3, 300))
    arguments = make_arguments(case, device)
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in arguments.items()}
    actual = selective_scan_triton(*arguments.values(), config=short_chunks(case))[i : i + 1]
    expected = selective_scan_reference(*exact.values())[i : i + 1]
    weights = random_like(expected)
    reached = [name for name in arguments if i == 0 or name not in ("C", "D", "z")]
    pairs = zip(
        gradients(actual, [arguments[name] for name in reached], weights),
        gradients(expected, [exact[name] for name in reached], weights),
        strict=True,
    )
    for name, (fast, slow) in zip(reached, pairs, strict=True):
        assert_close(fast, slow, GRADIENT_RTOL[torch.float32], f"d_{name}")


@on_every_device
def test_scan_gives_the_same_bits_twice(device: str) -> None:
    from bioaudio_kernels.selective_scan.triton_op import selective_scan_triton

    case = plain_case(size(1, 4), size(5, 3000))
    arguments, config = make_arguments(case, device), short_chunks(case)
    first, second = (results_and_gradients(selective_scan_triton, arguments, config=config) for _ in range(2))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@on_every_device
@pytest.mark.parametrize("cuts", [None, (0, 0)], ids=["rows", "packed"])
def test_no_steps_give_back_the_state(device: str, cuts: tuple[int, ...] | None) -> None:
    from bioaudio_kernels.selective_scan.triton_op import selective_scan_triton

    case = plain_case(1, 0, cuts=cuts)
    arguments = make_arguments(case, device)
    y, state = selective_scan_triton(*arguments.values(), **options(case, device))
    assert y.shape == (1, 0, D_INNER)
    assert torch.equal(state, arguments["initial_state"])


@on_every_device
@pytest.mark.parametrize("cuts", [None, (0, 2)], ids=["rows", "packed"])
def test_operators_pass_opcheck(device: str, cuts: tuple[int, ...] | None) -> None:
    """Schema, fake tensors and autograd registration, as torch.compile relies on them."""
    from bioaudio_kernels.selective_scan import triton_op

    case = plain_case(1, 3, cuts=cuts, B="grouped", C="grouped")
    cu_seqlens = options(case, device)["cu_seqlens"]
    arguments = list(make_arguments(case, device).values())
    rest = [1, True, False, list(short_chunks(case))]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(triton_op._forward, (*arguments, cu_seqlens, *rest), test_utils=checks)
    with torch.no_grad():
        detached = [*(tensor.detach() for tensor in arguments), cu_seqlens]
        y, final_state, states = triton_op._forward(*[*detached, *rest])
        backward_arguments = (y, final_state, *detached, states, *rest)
        torch.library.opcheck(triton_op._backward, backward_arguments, test_utils=checks)


@on_every_device
@pytest.mark.parametrize("form", ["complex, packed"] if INTERPRETED else ["plain", "complex, packed"])
def test_compiles_into_one_graph(device: str, form: str) -> None:
    from bioaudio_kernels.selective_scan.triton_op import selective_scan_triton

    case = plain_case(1, size(3, 300))
    if form != "plain":
        case = replace(case, complex=frozenset("ABC"), cuts=(1,))
    # Inductor has no complex numbers of its own.
    backend = "inductor" if form == "plain" else "aot_eager"
    arguments, given_options = make_arguments(case, device), options(case, device)
    # The annotation checks that tests hook in are not for torch.compile to trace.
    compiled = torch.compile(inspect.unwrap(selective_scan_triton), fullgraph=True, backend=backend)
    eager = results_and_gradients(selective_scan_triton, arguments, **given_options)
    for name, tensor in results_and_gradients(compiled, arguments, **given_options).items():
        assert torch.equal(tensor, eager[name]), name


@pytest.mark.gpu
@pytest.mark.parametrize("reverse", [False, True], ids=["rows", "packed, reverse"])
def test_offsets_beyond_2_to_the_31(reverse: bool) -> None:
    """The end of a tensor of more than 2^31 elements, against the same steps in a tensor of their own."""
    from bioaudio_kernels.selective_scan.triton_op import selective_scan_triton

    d_inner, tail = 512, 4096
    length = 2**22 + tail
    x = torch.randn(1, length, d_inner, device="cuda", dtype=torch.bfloat16)
    dt = torch.full((), -2.0, device="cuda", dtype=torch.bfloat16).expand_as(x)
    A = -torch.rand(d_inner, 2, device="cuda") - 0.5
    B, C = torch.randn(2, 1, length, 2, device="cuda", dtype=torch.bfloat16).unbind()

    def scan(start: int, stop: int, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
        """y, the final state and the gradient at x of the last `tail` steps."""
        leaf = x[:, start:stop].detach().requires_grad_()
        maps = B[:, start:stop], C[:, start:stop]
        y, state = selective_scan_triton(leaf, dt[:, start:stop], A, *maps, reverse=reverse, **options)
        (gradient,) = torch.autograd.grad(state[-1].sum(), leaf)
        return y[:, -tail:].detach(), state[-1:].detach(), gradient[:, -tail:]

    if reverse:
        borders = torch.tensor([0, length - tail, length], device="cuda")
        actual, state = scan(0, length, cu_seqlens=borders), None
    else:
        actual = scan(0, length)
        _, state, _ = scan(0, length - tail)
    expected = scan(length - tail, length, initial_state=state)
    assert_close(actual[0], expected[0], OUTPUT_RTOL[torch.bfloat16], "y")
    assert_close(actual[1], expected[1], SINGLE, "final_state")
    assert_close(actual[2], expected[2], GRADIENT_RTOL[torch.bfloat16], "d_x")
