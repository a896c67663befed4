"""Correctness and speed of the Triton convolution on one GPU, beside causal_conv1d where importable.

    python kernels/benchmarks/conv_gpu.py --out DIR

Checks outputs, states and every gradient against the float64 reference, packed sequences among them; times
forward and forward + backward against causal_conv1d in both of its layouts, in turn, and other ways to cut
the work. Forward + backward is timed as autograd runs it, and as a CUDA graph: what the GPU alone takes.
Writes DIR/conv_gpu.json and prints a table last.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
import triton.testing
from bioaudio_kernels.causal_conv1d import triton_op
from bioaudio_kernels.causal_conv1d.reference import causal_conv1d_reference
from bioaudio_kernels.causal_conv1d.triton_config import choose_config
from bioaudio_kernels.causal_conv1d.triton_op import causal_conv1d_triton
from torch import Tensor

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, relative_error

SHAPES = [(1, 512, 2**20), (8, 1536, 8192), (32, 128, 16384), (64, 1024, 2048)]
CHANGES: list[dict[str, int]] = [
    {},
    {"unroll": 2},
    {"unroll": 4},
    {"unroll": 8},
    {"block": 64},
    {"block": 256},
    {"chunk": 64},
    {"chunk": 128},
    {"chunk": 256},
    {"chunk": 512},
    {"chunk": 1024},
]


class Check(NamedTuple):
    lengths: list[int]
    channels: int
    width: int
    dtype: torch.dtype
    packed: bool = False
    state: bool = True


CHECKS = [
    Check([1000] * 2, 200, 4, torch.float32),
    Check([3001], 512, 4, torch.bfloat16),
    Check([3001], 512, 4, torch.bfloat16, state=False),
    Check([2] * 2, 64, 4, torch.float32),
    Check([700], 96, 1, torch.float32),
    Check([600], 64, 9, torch.float16),
    Check([500], 77, 3, torch.bfloat16),
    Check([0, 1, 63, 64, 65, 2, 3, 700, 0, 129], 512, 4, torch.bfloat16, packed=True),
    Check([0, 1, 63, 64, 65, 2, 3, 700, 0, 129], 80, 5, torch.float32, packed=True),
    Check([1, 2, 3] * 300, 96, 4, torch.float16, packed=True),
]


def run_check(case: Check) -> dict[str, Any]:
    generator = torch.Generator(device="cuda").manual_seed(0)

    def normal(*shape: int, dtype=torch.float32) -> Tensor:
        return torch.randn(*shape, device="cuda", generator=generator).to(dtype)

    lengths, channels, width, dtype, packed, state = case
    shape = (1, sum(lengths)) if packed else (len(lengths), lengths[0])
    tensors = [
        normal(*shape, 2 * channels, dtype=dtype)[..., channels:],
        normal(channels, width),
        normal(channels),
    ]
    if state and width > 1:
        tensors.append(normal(len(lengths), width - 1, channels, dtype=dtype))
    borders = torch.tensor([0, *itertools.accumulate(lengths)], device="cuda") if packed else None
    weights = [normal(*shape, channels, dtype=dtype), normal(len(lengths), width - 1, channels, dtype=dtype)]

    def run(function: Callable[..., Any], cast: Callable[[Tensor], Tensor]) -> list[Tensor]:
        leaves = [cast(t.detach()).requires_grad_() for t in tensors]
        padded = [*leaves, *[None] * (4 - len(leaves))]
        results = list(function(*padded, "silu", borders))
        used = 2 if width > 1 else 1
        weighted = [cast(weight) for weight in weights[:used]]
        return results + list(torch.autograd.grad(results[:used], leaves, weighted))

    first, second = (run(causal_conv1d_triton, lambda t: t) for _ in range(2))
    expected = run(causal_conv1d_reference, lambda t: t.double())
    names = ("y", "final_state", "x", "weight", "bias", "initial_state")
    errors, passed = {}, True
    for name, a, e in zip(names, first, expected, strict=False):
        table = OUTPUT_RTOL if name in ("y", "final_state") else GRADIENT_RTOL
        errors[name] = relative_error(a, e)
        passed &= errors[name] <= table[torch.float32 if name in ("weight", "bias") else dtype]
    same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    return {"case": case._asdict(), "errors": errors, "passed": passed, "deterministic": same}


def block_inputs(batch: int, channels: int, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (half of a projection's output), weight, bias and a gradient of y, as in a Mamba block."""
    x = torch.randn(batch, length, 2 * channels, device="cuda", dtype=torch.bfloat16)[..., :channels]
    weight, bias = torch.randn(channels, 4, device="cuda"), torch.randn(channels, device="cuda")
    dy = torch.randn(batch, length, channels, device="cuda", dtype=torch.bfloat16)
    return x, weight.requires_grad_(), bias.requires_grad_(), dy


def runs(
    convolve: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor, dy: Tensor
) -> dict[str, Callable[[], Any]]:
    x = x.detach().requires_grad_()

    def forward() -> None:
        with torch.no_grad():
            convolve(x, weight, bias)

    def both() -> None:
        torch.autograd.grad(convolve(x, weight, bias), (x, weight, bias), dy)

    return {"forward": forward, "both": both}


def contenders(batch: int, channels: int, length: int) -> dict[str, dict[str, Callable[[], Any]]]:
    x, weight, bias, dy = block_inputs(batch, channels, length)

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return causal_conv1d_triton(x, weight, bias, None, "silu")[0]

    found = {"ours": runs(ours, x, weight, bias, dy)}
    found["ours"]["backward"] = lambda: triton_op._backward(dy, None, x, weight, bias, None, None, True)
    try:
        causal_conv1d_fn = importlib.import_module("causal_conv1d").causal_conv1d_fn
    except Exception:  # not installed, or built for another torch
        return found

    def theirs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return causal_conv1d_fn(x, weight, bias, activation="silu")

    found["channels first"] = runs(theirs, x.mT.contiguous(), weight, bias, dy.mT.contiguous())
    found["channels last"] = runs(theirs, x.mT, weight, bias, dy.mT)
    return found


def graph_of(run: Callable[[], Any]) -> Callable[[], None]:
    """The same kernels without the host."""
    for _ in range(3):
        run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def milliseconds(run: Callable[[], Any]) -> float:
    """Median over some 25 ms of runs, the L2 cache cleared before each."""
    median: Any = triton.testing.do_bench(run, warmup=5, rep=25, return_mode="median")
    return median


def copy_speed() -> float:
    """TB/s that a copy within the GPU's memory reads and writes."""
    source = torch.empty(2**29, device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)
    return 4 * source.numel() / milliseconds(lambda: target.copy_(source)) / 1e9


def time_shapes() -> Iterator[dict[str, Any]]:
    for shape in SHAPES:
        entrants = contenders(*shape)
        for functions in entrants.values():
            functions["graph"] = graph_of(functions["both"])
        times: dict[tuple[str, str], list[float]] = {}
        for _ in range(3):  # in turn, so that a drifting clock hits all
            for name, functions in entrants.items():
                for which in functions:
                    times.setdefault((name, which), []).append(milliseconds(functions[which]))
        medians = {f"{name} {which}": statistics.median(each) for (name, which), each in times.items()}
        variants = []
        for change in CHANGES:
            use(change)
            forward, backward = (milliseconds(entrants["ours"][which]) for which in ("forward", "backward"))
            variants.append({"change": change, "forward_ms": forward, "backward_ms": backward})
        use({})
        yield {"shape": shape, "ms": medians, "variants": variants}
        entrants.clear()
        torch.cuda.empty_cache()


def use(change: dict[str, int]) -> None:
    """Let the operators cut their work in another way."""
    triton_op.choose_config = lambda *shape, **which: choose_config(*shape, **which)._replace(**change)


def compile_share(index: int, workers: int) -> None:
    """Fill Triton's cache with this process's share of all variants, on short sequences."""
    jobs: list[Any] = [*CHECKS, *(change for change in CHANGES if "chunk" not in change)]
    for job in jobs[index::workers]:
        if isinstance(job, Check):
            run_check(job)
        else:
            use(job)
            for batch in (1, 2):  # strides of the batch count as compile-time knowledge
                for function in contenders(batch, 512, 64)["ours"].values():
                    function()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=16, help="processes that compile ahead; 0: none")
    arguments = parser.parse_args()
    start = time.monotonic()
    command = [sys.executable, "-c", "import conv_gpu, sys; conv_gpu.compile_share(*map(int, sys.argv[1:]))"]
    workers = [
        subprocess.Popen([*command, str(i), str(arguments.workers)], cwd=Path(__file__).parent)
        for i in range(arguments.workers)
    ]
    for worker in workers:
        worker.wait()
    print(f"compiled ahead: {time.monotonic() - start:.0f} s", flush=True)
    torch.use_deterministic_algorithms(True)  # torch.empty then gives NaN: what a kernel forgets shows
    checks = [run_check(case) for case in CHECKS]
    torch.use_deterministic_algorithms(False)
    for row in checks:
        errors = " ".join(f"{k} {v:.1e}" for k, v in row["errors"].items())
        print("ok  " if row["passed"] and row["deterministic"] else "FAIL", row["case"], errors, flush=True)
    results: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "copy_tb_per_s": copy_speed(),
        "checks": checks,
        "shapes": list(time_shapes()),
        "seconds": time.monotonic() - start,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "conv_gpu.json").write_text(json.dumps(results, indent=1, default=str))
    print_tables(results)


def print_tables(results: dict[str, Any]) -> None:
    print("\nother ways to cut the work: forward / backward ms")
    for row in results["shapes"]:
        each = (
            f"{v['change'] or 'as is'}: {v['forward_ms']:.3f} / {v['backward_ms']:.3f}"
            for v in row["variants"]
        )
        print(row["shape"], "; ".join(each))
    passed = sum(row["passed"] and row["deterministic"] for row in results["checks"])
    print(f"\n{passed} of {len(results['checks'])} checks passed in {results['seconds']:.0f} s")
    print(", ".join(f"{k} {results[k]}" for k in ("gpu", "torch", "triton", "copy_tb_per_s")))
    print("batch, channels, length; ms     ours (TB/s)   channels first   channels last")
    for row in results["shapes"]:
        batch, channels, length = row["shape"]
        for which, passes in (("forward", 2), ("both", 5), ("graph", 5), ("backward", 3)):
            ours = row["ms"][f"ours {which}"]
            rate = 2 * passes * batch * channels * length / ours / 1e9
            peers = (row["ms"].get(f"{name} {which}") for name in ("channels first", "channels last"))
            columns = "".join(
                "              -" if ms is None else f"{ms:8.3f} {ms / ours:5.2f}x " for ms in peers
            )
            print(f"{row['shape']!s:22} {which:8} {ours:8.3f} ({rate:.2f}) {columns}")


if __name__ == "__main__":
    main()
