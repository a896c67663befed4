"""The Triton scan on one GPU: each kernel beside its bounds, each form of the scan, and slow decays.

    python kernels/benchmarks/scan_gpu.py --out DIR
    compute-sanitizer --tool memcheck python kernels/benchmarks/scan_gpu.py --sanitize

The first writes DIR/scan_gpu.json and prints tables; the second (or --tool racecheck) runs every form of the
scan, the convolution and the step once at tiny shapes. `bioaudio bench scan --shapes table` times the whole
scan beside mamba_ssm; the tests say whether its results are right.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import scan_gpu_checks as checks
import torch
import triton
import triton.testing
from bioaudio_kernels.selective_scan import triton_launch as launch
from bioaudio_kernels.selective_scan.triton_chunk_table import cut_into_chunks
from bioaudio_kernels.selective_scan.triton_config import choose_config, state_blocks
from bioaudio_kernels.selective_scan.triton_op import as_pairs, selective_scan_triton, with_equal_groups
from bioaudio_kernels.selective_scan.triton_scan import allocate_segment
from torch import Tensor

SHAPES = [(1, 512, 2**20), (1, 256, 2**20), (8, 1536, 8192), (32, 128, 16384), (64, 1024, 2048)]
CHUNKS = (256, 512, 1024)
KERNELS = ("states", "scan", "outputs", "forward sweep", "adjoint scan", "reverse sweep", "sums")
INSTRUCTIONS = {"states": 222, "outputs": 327, "forward sweep": 687, "reverse sweep": 609}
"""Issued in a step of 64 channels: Triton 3.6, sm_90, 16 states, bf16, z + D + bias + softplus."""
EXPONENTIALS = {"states": 17, "outputs": 19, "forward sweep": 19, "reverse sweep": 20}
"""In a step of one channel; reciprocal square roots count, since they run on the same units."""


class Kernel(NamedTuple):
    run: Callable[[], Any]
    segments: float
    """In the whole sequence, for the kernels of the backward pass; one run takes one of them."""
    gigabytes: float
    """Read and written by the kernel over the whole sequence."""


def scan_kernels(arguments: dict[str, Any], chunk: int | None = None) -> tuple[dict[str, Kernel], int]:
    """Each kernel of the scan, to be run in this order, and the chunk length (None: the built-in one).

    The scans over chunks, which work in place, get zeros: anything else would grow from run to run.
    """
    x, dt, A, D, z, dt_bias = (arguments[name] for name in ("x", "dt", "A", "D", "z", "dt_bias"))
    B, C = with_equal_groups(arguments["B"], arguments["C"])
    parts = 2 if A.is_complex() else 1
    pairs: Any = [as_pairs(t) if parts == 2 else t for t in (A, B, C)]
    A, B, C = pairs
    inputs = launch.ScanInputs(x, dt, A, B, C, D, z, dt_bias, None, parts, True, arguments["reverse"])
    (batch, length, d, n), device = inputs.sizes, x.device
    config = choose_config(batch, length, d, inputs.group_size, plain=parts == 1 and B.ndim == 4)
    if chunk is not None:
        config = config._replace(chunk=chunk, segment=max(1, 2**27 // (d * chunk)))
    chunks = cut_into_chunks(batch, length, config.chunk, arguments["cu_seqlens"], inputs.reverse, device)
    y, dy, dz, dx, ddt = (torch.randn(x.shape, device=device, dtype=x.dtype) for _ in range(5))
    scratch = torch.empty_like(y, dtype=torch.float32) if state_blocks(n, parts)[0] > 1 else None
    states, zeros = torch.zeros(2, chunks.total, n * parts, d, device=device)
    sigma = torch.zeros(chunks.total, d, device=device)
    final, carry = torch.zeros(2, chunks.sequences, n * parts, d, device=device)
    dB, dC = (torch.empty(t.shape, device=device, dtype=t.dtype) for t in (inputs.B, inputs.C))
    s = allocate_segment(inputs, 0, min(config.segment, chunks.total), config)
    count = s.dA.shape[0]

    def sum_partial() -> None:
        for rows, total in ((s.dB, dB), (s.dC, dC)):
            if rows.ndim == 4:
                launch.launch_sum_rows(inputs, rows, total, 0, chunks)
            else:
                rows.sum(0)
        for partial in (s.dA, s.dD, s.dbias):
            partial.sum(0)

    # For each what it reads and writes: tensors of the whole sequence, and those of a segment.
    shared = [x, dt, z, inputs.B, inputs.C]
    runs: list[tuple[Callable[[], Any], list[Tensor], list[Tensor]]] = [
        (lambda: launch.launch_chunk_states(inputs, states, sigma, chunks, config),
         [x, dt, inputs.B, states, sigma], []),
        (lambda: launch.launch_chunk_scan(zeros, sigma, inputs, None, None, chunks, backwards=False),
         [states, states, sigma], []),
        (lambda: launch.launch_outputs(inputs, states, y, final, scratch, chunks, config),
         [*shared, states, y], []),
        (lambda: launch.launch_forward_sweep(inputs, states, dy, dz, s, chunks, config),
         [*shared, states, dy, dz], [s.r, s.dC, s.dA, s.adjoint, s.end, s.S]),
        (lambda: launch.launch_chunk_scan(
            zeros[:count], s.sigma, inputs, carry.mT, carry, chunks, backwards=True),
         [], [s.adjoint, s.adjoint, s.sigma]),
        (lambda: launch.launch_reverse_sweep(inputs, dy, dx, ddt, s, chunks, config),
         [*shared, dy, dx, ddt], [s.r, s.dB, s.dA, s.dA, s.adjoint, s.end, s.S]),
        (sum_partial, [dB, dC], [s.dB, s.dC, s.dA]),
    ]  # fmt: skip
    kernels = {}
    for name, (run, whole, part) in zip(KERNELS, runs, strict=True):
        segments = chunks.total / count if part else 1.0
        size = sum(t.nbytes for t in whole) + sum(t.nbytes for t in part) * segments
        kernels[name] = Kernel(run, segments, size / 1e9)
    return kernels, config.chunk


def milliseconds(run: Callable[[], Any], rep: int = 25) -> float:
    """Median over some `rep` ms of runs, the L2 cache cleared before each."""
    median: Any = triton.testing.do_bench(run, warmup=rep // 2, rep=rep, return_mode="median")
    return median


def copy_speed() -> float:
    """GB/ms that a copy within the GPU's memory reads and writes."""
    source = torch.empty(2**29, device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)
    return 2 * source.nbytes / 1e9 / milliseconds(lambda: target.copy_(source))


def clock_speed() -> float:
    """GHz at which the multiprocessors run while a kernel of the scan keeps them busy."""
    kernels, _ = scan_kernels(checks.make_scan((1, 512, 2**18), checks.FORMS["plain"]))
    query = ["nvidia-smi", "--query-gpu=clocks.sm", "--format=csv,noheader,nounits"]
    with subprocess.Popen(query, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            kernels["forward sweep"].run()
            torch.cuda.synchronize()
        return float(process.communicate()[0].split()[0]) / 1e3


def time_kernels(shape: checks.Shape, machine: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each chunk length; bounds as if the kernel had to do nothing else."""
    arguments = checks.make_scan(shape, checks.FORMS["plain"])
    built_in = scan_kernels(arguments)[1]
    per_ms = machine["multiprocessors"] * machine["ghz"] * 1e6
    channel_steps = math.prod(shape)
    rows = []
    for chunk in CHUNKS:
        row: dict[str, Any] = {"shape": shape, "chunk": chunk, "built_in": chunk == built_in, "kernels": {}}
        for name, kernel in scan_kernels(arguments, chunk)[0].items():
            row["kernels"][name] = {
                "ms": milliseconds(kernel.run) * kernel.segments,
                "exponentials": channel_steps * EXPONENTIALS.get(name, 0) / (16 * per_ms),
                "issue": channel_steps / 64 * INSTRUCTIONS.get(name, 0) / (4 * per_ms),
                "bytes": kernel.gigabytes / machine["copy_tb_per_s"],
            }
        rows.append(row)
    return rows


def time_form(form: checks.Form) -> dict[str, float]:
    """The whole scan, at the first shape; memory beside its arguments, what is kept with the output."""
    arguments = checks.make_scan(SHAPES[0], form)
    differentiable, leaves = checks.with_leaves(arguments)
    dy = torch.randn_like(leaves[0], memory_format=torch.contiguous_format)

    def both() -> None:
        torch.autograd.grad(selective_scan_triton(**differentiable)[0], leaves, dy)

    row = {"forward_ms": milliseconds(lambda: selective_scan_triton(**arguments), 60)}
    row["both_ms"] = milliseconds(both, 60)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = selective_scan_triton(**differentiable)
    row["kept_gb"] = (torch.cuda.memory_allocated() - before) / 1e9
    del kept
    both()
    row["peak_gb"] = (torch.cuda.max_memory_allocated() - before) / 1e9
    return row


def compile_part(form: str, kernel: str | None) -> None:
    """Fill Triton's cache: one kernel of one form on a short sequence, or all of a tiny scan."""
    if kernel is not None:
        scan_kernels(checks.make_scan((1, 512, 8192), checks.FORMS[form]))[0][kernel].run()
    elif form in checks.TINY:
        checks.run_tiny_scan(form)
    else:
        checks.slow_decays(2048, CHUNKS)
    torch.cuda.synchronize()


def compile_ahead(workers: int) -> None:
    """In parallel processes, what takes longest first; what `--sanitize` needs too."""
    jobs = [(form, kernel) for kernel in KERNELS for form in reversed(checks.FORMS)]
    jobs.sort(key=lambda job: ("sweep" not in job[1], job[1] != "outputs"))
    jobs += [(form, None) for form in (*checks.TINY, "slow decays")]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for job in [pool.submit(compile_part, *job) for job in jobs]:
            job.result()


def print_tables(results: dict[str, Any]) -> None:
    print(
        "Kernels: ms, and the largest bound as % of it (e exponentials, i issue, b bytes); * built-in chunk"
    )
    print(f"{'batch, d_inner, length':24}chunk " + "".join(f"{name:>16}" for name in KERNELS))
    for row in results["kernels"]:
        cells = []
        for times in row["kernels"].values():
            bound = max(("exponentials", "issue", "bytes"), key=lambda k: times[k])
            cells.append(f"{times['ms']:9.3f} {100 * times[bound] / times['ms']:3.0f}%{bound[0]} ")
        print(f"{row['shape']!s:24}{row['chunk']:4}{'*' if row['built_in'] else ' '} " + "".join(cells))
    print(f"\nForms at {SHAPES[0]}: forward and both ms, kept and peak GB, each also as ratio to plain")
    plain = results["forms"]["plain"]
    for name, row in results["forms"].items():
        print(f"{name:16}" + "".join(f"{v:9.2f} ({v / plain[k]:4.2f}x)" for k, v in row.items()))
    print("\nSlow decays over 65,536 steps: relative error of the rate")
    print("".join(f"{name:>18}" for name in results["slow_decays"][0]))
    for row in results["slow_decays"]:
        print("".join(f"{value:18.1e}" for value in row.values()))


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--out", type=Path, help="folder for scan_gpu.json")
    parser.add_argument("--sanitize", action="store_true", help="run every form once, time nothing")
    parser.add_argument("--workers", type=int, default=15, help="processes that compile ahead")
    arguments = parser.parse_args()
    if arguments.sanitize:
        return checks.sanitize()
    if arguments.out is None:
        parser.error("--out DIR is needed, unless --sanitize is given")
    start = time.monotonic()
    arguments.out.mkdir(parents=True, exist_ok=True)
    compile_ahead(arguments.workers)
    machine = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "multiprocessors": torch.cuda.get_device_properties(0).multi_processor_count,
        "copy_tb_per_s": round(copy_speed(), 3),
        "ghz": clock_speed(),
    }
    print(f"compiled ahead: {time.monotonic() - start:.0f} s")
    print(", ".join(f"{k} {v}" for k, v in machine.items()), flush=True)
    results = machine | {
        "kernels": [row for shape in SHAPES for row in time_kernels(shape, machine)],
        "forms": {name: time_form(form) for name, form in checks.FORMS.items()},
        "slow_decays": checks.slow_decays(2**16, (256, 1024, 2**16)),
        "seconds": time.monotonic() - start,
    }
    (arguments.out / "scan_gpu.json").write_text(json.dumps(results, indent=1))
    print_tables(results)
    print(f"\n{results['seconds']:.0f} s")


if __name__ == "__main__":
    main()
