"""The compiled CPU operators as citizens of torch: strides, threads, forks, memory, torch.compile."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from bioaudio_kernels import selective_scan
from bioaudio_kernels.causal_conv1d.cpu import _conv, _conv_backward
from bioaudio_kernels.selective_scan.cpu import _scan, _scan_backward
from scan_cases import ScanCase, cast, gradients, random_like
from torch import Tensor

CASE = ScanCase(batch=2, length=140, d_inner=200, d_state=16)
SMALL = ScanCase(batch=2, length=5, d_inner=9, d_state=3)
FORMS = [
    SMALL,
    replace(SMALL, absent=frozenset({"D", "z", "dt_bias", "initial_state"})),
    replace(SMALL, complex=frozenset("AB"), B="grouped", n_groups=3, C="constant", dt="constant"),
    replace(SMALL, batch=1, cuts=(2, 2), reverse=True, C="grouped", n_groups=3),
]


def scan_with_gradients(arguments: list[Any], **options: Any) -> list[Tensor]:
    results = selective_scan(*arguments, **options, backend="cpu")
    return [*results, *gradients(results, arguments, random_like(results))]


def all_equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    "case",
    [
        CASE,
        replace(CASE, batch=1, cuts=(20, 33), B="grouped", n_groups=4, dt="constant"),
        replace(CASE, complex=frozenset("ABC"), reverse=True, B="constant", C="grouped", n_groups=100),
    ],
)
def test_results_are_the_same_bits_for_any_number_of_threads(case: ScanCase) -> None:
    arguments = cast(case.tensors(), torch.float32)
    torch.set_num_threads(1)
    one = scan_with_gradients(arguments, **case.options())
    for threads in (1, 2, 3, 16):
        torch.set_num_threads(threads)
        assert all_equal(one, scan_with_gradients(arguments, **case.options()))


def test_the_default_dtype_changes_nothing() -> None:
    arguments = cast(CASE.tensors(), torch.float32)
    expected = scan_with_gradients(arguments)
    torch.set_default_dtype(torch.float64)
    try:
        assert all_equal(expected, scan_with_gradients(arguments))
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("used", ["y", "final state"])
def test_gradients_flow_from_one_result_alone(used: str) -> None:
    arguments = cast(CASE.tensors(), torch.float32)
    y, state = selective_scan(*arguments, backend="cpu")
    zeros = [torch.zeros_like(y), torch.zeros_like(state)]
    which = ["y", "final state"].index(used)
    zeros[which] += 1
    together = torch.autograd.grad([y, state], arguments, zeros, retain_graph=True)
    alone = torch.autograd.grad((y, state)[which].sum(), arguments, retain_graph=True)
    assert all_equal(list(together), list(alone))


def test_strided_inputs_equal_contiguous_ones() -> None:
    arguments = cast(CASE.tensors(), torch.float32)
    expected = scan_with_gradients(arguments)

    def spread(tensor: Tensor) -> list[Tensor]:
        """The same values as halves of a wider tensor, time-major, and channel-major."""
        wide = torch.cat([tensor, tensor.new_full(tensor.shape, float("nan"))], -1)[..., : tensor.shape[-1]]
        return [wide, tensor.transpose(0, 1).contiguous().transpose(0, 1), tensor.mT.contiguous().mT]

    for variant in range(3):
        strided = [
            spread(tensor.detach())[variant].requires_grad_() if tensor.ndim == 3 else tensor
            for tensor in arguments
        ]
        assert all_equal(expected, scan_with_gradients(strided))


def test_two_threads_at_once_do_not_disturb_each_other() -> None:
    problems = [ScanCase(batch=2, length=90, d_inner=130, d_state=16, seed=seed) for seed in (1, 2)]
    cases = [cast(problem.tensors(), torch.float32) for problem in problems]
    expected = [scan_with_gradients(case) for case in cases]
    found: list[list[bool]] = [[], []]

    def work(which: int) -> None:
        for _ in range(5):
            found[which].append(all_equal(expected[which], scan_with_gradients(cases[which])))

    workers = [threading.Thread(target=work, args=(which,)) for which in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [[True] * 5, [True] * 5]


def scan_in_child(arguments: list[Any], expected: Tensor) -> None:
    with torch.no_grad():
        y, _ = selective_scan(*arguments, backend="cpu")
    # torch.equal would hang: torch's own threads do not survive a fork, ours are made anew.
    raise SystemExit(0 if np.array_equal(y.numpy(), expected.numpy()) else 1)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_worker_can_scan_after_its_parent_has() -> None:
    arguments = cast(CASE.tensors(), torch.float32)
    y, _ = selective_scan(*arguments, backend="cpu")
    child = multiprocessing.get_context("fork").Process(target=scan_in_child, args=(arguments, y.detach()))
    child.start()
    child.join(timeout=60)
    assert child.exitcode == 0


def test_nothing_of_length_times_state_is_allocated() -> None:
    """At N = 64, forward and backward together allocate less than a third of one (B, L, D, N) tensor."""
    case = ScanCase(batch=1, length=2048, d_inner=64, d_state=64)
    arguments = cast(case.tensors(), torch.float32)
    with torch.profiler.profile(profile_memory=True) as profile:
        y, _ = selective_scan(*arguments, backend="cpu")
        y.backward(torch.ones_like(y))
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.events() or ())
    assert allocated < 4 * case.length * case.d_inner * case.d_state / 3


OPCHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("case", FORMS)
def test_scan_operators_pass_opcheck(case: ScanCase) -> None:
    tensors = cast(case.tensors(), torch.float32)
    options = case.options()
    cu_seqlens, reverse = options["cu_seqlens"], options["reverse"]
    torch.library.opcheck(_scan, (*tensors, cu_seqlens, True, reverse, True), test_utils=OPCHECKS)
    fixed = [None if tensor is None else tensor.detach() for tensor in tensors]
    y, state, checkpoints = _scan(*fixed, cu_seqlens, True, reverse, True)
    given = (y, state, *fixed[:-1], cu_seqlens, checkpoints, True, reverse)
    torch.library.opcheck(_scan_backward, given, test_utils=OPCHECKS[:3])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_convolution_operators_pass_opcheck() -> None:
    shapes = ((2, 5, 9), (9, 4), (9,), (2, 3, 9))
    x, weight, bias, state = (torch.randn(shape, requires_grad=True) for shape in shapes)
    torch.library.opcheck(_conv, (x, weight, bias, state, True), test_utils=OPCHECKS)
    torch.library.opcheck(_conv, (x, weight, None, state, False), test_utils=OPCHECKS)
    plain = [tensor.detach() for tensor in (x, x, weight, bias, state)]
    torch.library.opcheck(_conv_backward, (*plain, True), test_utils=OPCHECKS[:3])


def test_the_ops_compile_to_one_graph_each_way() -> None:
    """In a process of its own, without the run-time type checks, which torch.compile cannot trace."""
    done = subprocess.run([sys.executable, "-c", COMPILED_BLOCK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# "aot_eager" traces forward and backward but needs no C++ compiler.
COMPILED_BLOCK = """
import torch
from bioaudio_kernels import causal_conv1d, selective_scan

def block(x, dt, A, B, C, weight, borders, reverse):
    u, _ = causal_conv1d(x, weight, activation="silu")
    y, state = selective_scan(u, dt, A, B, C, cu_seqlens=borders, reverse=reverse)
    return y.sum() + state.abs().sum()

row, channel = (1, 6, 8), (8, 2)
A = -torch.rand(channel)
for A, B, borders, reverse in [
    (A, (1, 6, 2), None, False),
    (A, (1, 6, 4, 2), torch.tensor([0, 2, 6]), True),
    (torch.complex(A, A), channel, None, True),
]:
    tensors = (torch.rand(row), torch.rand(row), A, torch.rand(B), torch.rand(1, 6, 2), torch.rand(8, 4))
    arguments = [tensor.requires_grad_() for tensor in tensors]
    expected = block(*arguments, borders, reverse)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    actual = compiled(*arguments, borders, reverse)
    assert torch.equal(actual, expected)
    pairs = zip(*(torch.autograd.grad(y, arguments) for y in (actual, expected)))
    assert all(torch.equal(a, e) for a, e in pairs)
    if borders is not None:
        try:
            compiled(*arguments, torch.tensor([0, 9, 6]), reverse)
        except ValueError as error:
            assert "sequence 1 has length -3" in str(error)
        else:
            raise AssertionError("bad borders passed")
"""
