"""Correctness and speed of the Triton scan and convolution on one GPU, beside mamba_ssm where importable.

    python kernels/benchmarks/scan_gpu.py --out DIR [--quick] [--seconds 200]

Checks every kernel against the float64 reference; times the built-in configuration against mamba_ssm, in
turn; then kernel by kernel other ways to cut the work (channels per program, unrolling, warps, chunk, B and C
in float32); and measures what the hardware's exp2 does to slow decays. Writes DIR/scan_gpu.json and prints
tables, the shortest last.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import triton
import triton.testing
from bioaudio_kernels.causal_conv1d.reference import causal_conv1d_reference
from bioaudio_kernels.causal_conv1d.triton_op import causal_conv1d_triton
from bioaudio_kernels.selective_scan.reference import selective_scan_reference
from bioaudio_kernels.selective_scan.triton_config import ScanConfig, choose_config
from bioaudio_kernels.selective_scan.triton_launch import (
    ScanInputs,
    launch_chunk_scan,
    launch_chunk_states,
    launch_forward_sweep,
    launch_outputs,
    launch_reverse_sweep,
)
from bioaudio_kernels.selective_scan.triton_op import selective_scan_triton
from bioaudio_kernels.selective_scan.triton_scan import allocate_segment, scan_forward
from torch import Tensor

SHAPES = [(1, 512, 2**20), (1, 256, 2**20), (8, 1536, 8192), (32, 128, 16384), (64, 1024, 2048)]
NAMES = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state")
OUTPUT_RTOL = {torch.float32: 2e-5, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}
GRADIENT_RTOL = {torch.float32: 1e-4, torch.bfloat16: 3.2e-2, torch.float16: 4e-3}


def make_inputs(
    batch: int, d: int, length: int, n: int = 16, dtype=torch.bfloat16, state: bool = False
) -> ScanInputs:
    """Inputs as a Mamba block makes them: x and z halves of one tensor, B and C slices of x_proj's output."""
    generator = torch.Generator(device="cuda").manual_seed(0)

    def normal(*shape: int, dtype=torch.float32) -> Tensor:
        return torch.randn(*shape, device="cuda", generator=generator, dtype=dtype)

    rank = max(16, d // 32)
    xz = normal(batch, length, 2 * d, dtype=dtype)
    projected = normal(batch, length, rank + 2 * n, dtype=dtype)
    dt = normal(batch, length, d, dtype=dtype).mul_(0.5)
    step = torch.exp(torch.rand(d, device="cuda", generator=generator) * math.log(100) + math.log(1e-3))
    return ScanInputs(
        x=xz[..., :d],
        dt=dt,
        A=-torch.arange(1, n + 1, device="cuda", dtype=torch.float32).repeat(d, 1),
        B=projected[..., rank : rank + n],
        C=projected[..., rank + n :],
        D=torch.ones(d, device="cuda"),
        z=xz[..., d:],
        dt_bias=torch.log(torch.expm1(step)),
        initial_state=normal(batch, d, n) if state else None,
        dt_softplus=True,
    )


def relative_error(actual: Tensor, expected: Tensor) -> float:
    scale = expected.double().abs().max().item()
    return (actual.double() - expected.double()).abs().max().item() / (scale or 1.0)


def check_scan() -> list[dict[str, Any]]:
    """Outputs, final state and all gradients against float64, and twice the same bits."""
    rows = []
    # batch, channels, length, states, dtype, forced chunk (0: the built-in rule)
    cases = [
        (2, 96, 500, 16, torch.float32, 0),
        (2, 128, 321, 16, torch.float32, 64),
        (1, 64, 1000, 16, torch.bfloat16, 128),
        (2, 100, 257, 5, torch.float32, 64),
        (1, 64, 200, 40, torch.float32, 64),
        (2, 64, 300, 1, torch.float16, 64),
        (1, 1, 1, 16, torch.float32, 0),
    ]
    for batch, d, length, n, dtype, chunk in cases:
        inputs = make_inputs(batch, d, length, n, dtype, state=True)
        config = choose_config(batch, length, d)
        if chunk:
            config = config._replace(chunk=chunk, segment=2)
        fast = [t.detach().requires_grad_() for t in inputs[:9]]
        exact = [t.detach().double().requires_grad_() for t in inputs[:9]]
        generator = torch.Generator(device="cuda").manual_seed(1)
        dy = torch.randn(batch, length, d, device="cuda", generator=generator).to(dtype)
        dh = torch.randn(batch, d, n, device="cuda", generator=generator)

        def run(fast=fast, config=config, dy=dy, dh=dh):
            y, h = selective_scan_triton(*fast, True, config=config)
            return y, h, *torch.autograd.grad([y, h], fast, [dy, dh])

        first, second = run(), run()
        y, h = selective_scan_reference(*exact, True)
        expected = (y, h, *torch.autograd.grad([y, h], exact, [dy.double(), dh.double()]))
        errors = {
            name: relative_error(a, e) for name, a, e in zip(("y", "h", *NAMES), first, expected, strict=True)
        }
        low = {"y", "x", "dt", "B", "C", "z"}
        limit = {
            k: (OUTPUT_RTOL if k in ("y", "h") else GRADIENT_RTOL)[dtype if k in low else torch.float32]
            for k in errors
        }
        rows.append(
            {
                "case": f"scan {batch}x{length}x{d} N{n} chunk {config.chunk} {str(dtype)[6:]}",
                "errors": errors,
                "passed": all(errors[k] <= limit[k] for k in errors),
                "deterministic": all(torch.equal(a, b) for a, b in zip(first, second, strict=True)),
            }
        )
    return rows


def check_conv() -> list[dict[str, Any]]:
    rows = []
    for batch, c, length, width, dtype in [
        (2, 200, 1000, 4, torch.float32),
        (1, 128, 513, 4, torch.bfloat16),
        (2, 64, 2, 4, torch.float32),
        (1, 96, 700, 1, torch.float32),
        (1, 64, 600, 9, torch.float16),
    ]:
        generator = torch.Generator(device="cuda").manual_seed(0)
        x = torch.randn(batch, length, 2 * c, device="cuda", generator=generator).to(dtype)[..., :c]
        tensors = [x]
        tensors += [
            torch.randn(c, width, device="cuda", generator=generator),
            torch.randn(c, device="cuda", generator=generator),
        ]
        tensors += (
            [torch.randn(batch, width - 1, c, device="cuda", generator=generator).to(dtype)]
            if width > 1
            else []
        )
        dy = torch.randn(batch, length, c, device="cuda", generator=generator).to(dtype)
        dh = torch.randn(batch, width - 1, c, device="cuda", generator=generator).to(dtype)

        def run(function, cast, tensors=tensors, dy=dy, dh=dh, width=width):
            leaves = [cast(t.detach()).requires_grad_() for t in tensors]
            y, h = function(*leaves, *([None] if width == 1 else []), "silu")
            outputs, gradients = ([y, h], [cast(dy), cast(dh)]) if width > 1 else ([y], [cast(dy)])
            return y, h, *torch.autograd.grad(outputs, leaves, gradients)

        first, second = (run(causal_conv1d_triton, lambda t: t) for _ in range(2))
        expected = run(causal_conv1d_reference, lambda t: t.double())
        names = ("y", "h", "x", "weight", "bias", "initial_state")
        errors = {
            k: relative_error(a, e) for k, a, e in zip(names, first, expected, strict=False) if a.numel()
        }
        limit = {k: OUTPUT_RTOL[dtype] if k in "yh" else GRADIENT_RTOL[dtype] for k in errors}
        rows.append(
            {
                "case": f"conv {batch}x{length}x{c} width {width} {str(dtype)[6:]}",
                "errors": errors,
                "passed": all(errors[k] <= limit[k] for k in errors),
                "deterministic": all(torch.equal(a, b) for a, b in zip(first, second, strict=True)),
            }
        )
    return rows


def milliseconds(run: Callable[[], Any], rep: int = 60) -> float:
    """Median over about `rep` ms of runs, the L2 cache cleared before each."""
    return triton.testing.do_bench(run, warmup=15, rep=rep, return_mode="median")


def peer_runs(inputs: ScanInputs) -> tuple[Callable[[], Any], Callable[[], Any]] | None:
    """mamba_ssm's forward, and forward + backward, on the same numbers, (batch, channels, length)."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except Exception:
        return None
    x, dt, B, C, z = (t.mT.contiguous() for t in (inputs.x, inputs.dt, inputs.B, inputs.C, inputs.z))
    leaves = [x, dt, inputs.A, B, C, inputs.D, z, inputs.dt_bias]
    leaves = [t.detach().clone().requires_grad_() for t in leaves]
    dy = torch.randn_like(x)

    def forward() -> None:
        with torch.no_grad():
            selective_scan_fn(*leaves, delta_softplus=True)

    def both() -> None:
        y = selective_scan_fn(*leaves, delta_softplus=True)
        torch.autograd.grad(y, leaves, dy)

    return forward, both


def memory_kept(run: Callable[[], Any]) -> float:
    """GB that a forward pass keeps alive, its output included."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    kept = run()
    size = (torch.cuda.memory_allocated() - before) / 1e9
    del kept
    return size


def time_shapes() -> Iterator[dict[str, Any]]:
    for batch, d, length in SHAPES:
        inputs = make_inputs(batch, d, length)
        config = choose_config(batch, length, d)
        leaves = [None if t is None else t.detach().requires_grad_() for t in inputs[:9]]
        present = [t for t in leaves if t is not None]
        dy = torch.randn(batch, length, d, device="cuda", dtype=inputs.x.dtype)
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_allocated()

        def both(leaves=leaves, present=present, dy=dy) -> None:
            y, _ = selective_scan_triton(*leaves, True)
            torch.autograd.grad(y, present, dy)

        both()
        peak = (torch.cuda.max_memory_allocated() - base) / 1e9
        row: dict[str, Any] = {"shape": (batch, d, length), "config": config._asdict(), "peak_gb": peak}
        row["kept_gb"] = memory_kept(lambda leaves=leaves: selective_scan_triton(*leaves, True))
        peer = peer_runs(inputs)
        ours: dict[str, list[float]] = {"forward": [], "both": []}
        theirs: dict[str, list[float]] = {"forward": [], "both": []}
        for _ in range(2):  # in turn, so that a drifting clock hits both
            ours["forward"].append(milliseconds(lambda i=inputs, c=config: scan_forward(i, c)))
            ours["both"].append(milliseconds(both))
            if peer is not None:
                theirs["forward"].append(milliseconds(peer[0]))
                theirs["both"].append(milliseconds(peer[1]))
        row["ours_ms"] = {k: statistics.median(v) for k, v in ours.items()}
        row["mamba_ssm_ms"] = {k: statistics.median(v) for k, v in theirs.items() if v}
        row["kernels_ms"] = time_kernels(inputs, config)
        yield row
        del inputs, leaves, present, dy, peer, both
        torch.cuda.empty_cache()


def time_kernels(inputs: ScanInputs, config: ScanConfig, only: str | None = None) -> dict[str, float]:
    """Each kernel alone: forward over the sequence, backward over one segment, scaled to the sequence."""
    batch, length, d, n = inputs.sizes
    n_chunks = triton.cdiv(length, config.chunk)
    y, final_state, states = scan_forward(inputs, config)
    sigma = torch.full((batch, n_chunks, d), 0.1, device="cuda")
    chunks = min(config.segment, n_chunks)
    segment = allocate_segment(inputs, 0, chunks, config)
    dy, dx, ddt, dz = (torch.randn_like(y) for _ in range(4))
    end = torch.empty(batch, n, d, device="cuda").mT
    runs: dict[str, tuple[Callable[[], Any], float]] = {
        "states": (lambda: launch_chunk_states(inputs, states, sigma, config), 1.0),
        "scan": (lambda: launch_chunk_scan(states, sigma, inputs.A, None, None, reverse=False), 1.0),
        "outputs": (lambda: launch_outputs(inputs, states, y, final_state, None, config), 1.0),
        "forward_sweep": (
            lambda: launch_forward_sweep(inputs, states, dy, dz, segment, config),
            n_chunks / chunks,
        ),
        "reverse_scan": (
            lambda: launch_chunk_scan(segment.adjoint, segment.sigma, inputs.A, None, end, reverse=True),
            n_chunks / chunks,
        ),
        "reverse_sweep": (
            lambda: launch_reverse_sweep(inputs, dy, dx, ddt, segment, config),
            n_chunks / chunks,
        ),
        "reduce": (lambda: (segment.dB.sum(0), segment.dC.sum(0), segment.dA.sum((0, 1))), n_chunks / chunks),
    }
    if n_chunks == 1:
        del runs["states"], runs["scan"]
    return {
        name: milliseconds(run, 25) * scale for name, (run, scale) in runs.items() if only in (None, name)
    }


def variants(kernel: str) -> Iterator[dict[str, int]]:
    """Other ways to cut the work of one kernel, as replacements in a `ScanConfig`."""
    if kernel in ("states", "outputs"):
        prefix = "state" if kernel == "states" else "output"
        for block, unroll, warps in [
            *itertools.product((32, 64, 128), (1, 2, 4), (1,)),
            (32, 8, 1), (64, 2, 2), (128, 2, 4), (256, 2, 4), (128, 2, 2),
        ]:  # fmt: skip
            yield {f"{prefix}_block": block, f"{prefix}_unroll": unroll, f"{prefix}_warps": warps}
    else:
        prefix = kernel.removesuffix("_sweep")
        yield from ({f"{prefix}_block": block} for block in (32, 64, 128))


def tuning_cases() -> Iterator[tuple[str, dict[str, int]]]:
    for kernel in ("outputs", "states", "forward_sweep", "reverse_sweep"):
        for change in variants(kernel):
            yield kernel, change
    for kernel, chunk in itertools.product(
        ("outputs", "states", "forward_sweep", "reverse_sweep", "scan"), (256, 512, 1024, 2048)
    ):
        yield kernel, {"chunk": chunk, "segment": max(1, 2**27 // (512 * chunk))}


def tune(deadline: float) -> list[dict[str, Any]]:
    """Every variant of every kernel at (1, 512, 2^20), until time is up."""
    inputs = make_inputs(1, 512, 2**20)
    base = choose_config(1, 2**20, 512)
    rows: list[dict[str, Any]] = []
    single = inputs._replace(B=inputs.B.float(), C=inputs.C.float())
    for kernel, ms in time_kernels(single, base).items():
        rows.append({"kernel": kernel, "change": "B and C in float32", "ms": ms})
    for kernel, change in tuning_cases():
        if time.monotonic() > deadline:
            rows.append({"kernel": "stopped", "change": change, "ms": float("nan")})
            break
        ms = time_kernels(inputs, base._replace(**change), kernel)[kernel]
        rows.append({"kernel": kernel, "change": change, "ms": ms})
    return rows


def compile_ahead(workers: int) -> None:
    """Fill Triton's cache in parallel processes, each with its share of the variants, on a short sequence."""
    command = [sys.executable, __file__, "--out", ".", "--compile"]
    processes = [subprocess.Popen([*command, str(i), str(workers)]) for i in range(workers)]
    for process in processes:
        process.wait()


def compile_share(index: int, workers: int) -> None:
    inputs = make_inputs(1, 512, 8192)
    base = choose_config(1, 2**20, 512)
    for i, (kernel, change) in enumerate(tuning_cases()):
        if i % workers == index:
            config = base._replace(**change)
            time_once(inputs, config._replace(segment=8192 // config.chunk), kernel)


def time_once(inputs: ScanInputs, config: ScanConfig, kernel: str) -> None:
    y, final_state, states = scan_forward(inputs, config)
    sigma = torch.zeros(1, states.shape[1], 512, device="cuda")
    segment = allocate_segment(inputs, 0, config.segment, config)
    dy, dx, ddt, dz = (torch.zeros_like(y) for _ in range(4))
    if kernel == "states":
        launch_chunk_states(inputs, states, sigma, config)
    elif kernel == "outputs":
        launch_outputs(inputs, states, y, final_state, None, config)
    elif kernel == "forward_sweep":
        launch_forward_sweep(inputs, states, dy, dz, segment, config)
    elif kernel == "reverse_sweep":
        launch_reverse_sweep(inputs, dy, dx, ddt, segment, config)


def time_conv() -> list[dict[str, Any]]:
    rows = []
    for batch, c, length in [(1, 512, 2**20), (8, 1536, 8192)]:
        x = torch.randn(batch, length, 2 * c, device="cuda", dtype=torch.bfloat16)[..., :c].requires_grad_()
        weight = torch.randn(c, 4, device="cuda", requires_grad=True)
        bias = torch.randn(c, device="cuda", requires_grad=True)
        dy = torch.randn(batch, length, c, device="cuda", dtype=torch.bfloat16)

        def forward(x=x, weight=weight, bias=bias):
            return causal_conv1d_triton(x, weight, bias, None, "silu")[0]

        def both(x=x, weight=weight, bias=bias, dy=dy, forward=forward) -> None:
            torch.autograd.grad(forward(), (x, weight, bias), dy)

        gb = 2 * x.numel() * 2 / 1e9
        row = {
            "shape": (batch, c, length),
            "forward_ms": milliseconds(forward),
            "both_ms": milliseconds(both),
        }
        rows.append(row | {"forward_gb_per_s": gb / row["forward_ms"] * 1e3})
    return rows


def slow_decays() -> list[dict[str, float]]:
    """How far L steps of exp2(dt A) drift from exp(dt A L) when dt |A| is tiny.

    The state starts at 1 with x = 0, so that y = C h is the product of the decays.
    """
    rows = []
    length = 2**16
    for exponent in (-7.0, -6.5, -6.0, -5.5, -5.0, -4.5, -4.0):
        rate = 10.0**exponent
        d = 64
        step = torch.linspace(1.0, 1.1, d, device="cuda") * rate
        zeros = torch.zeros(1, length, d, device="cuda")
        ones = torch.ones(1, length, 1, device="cuda")
        inputs = ScanInputs(
            zeros, step.expand(1, length, d), -torch.ones(d, 1, device="cuda"), ones, ones, None, None, None,
            torch.ones(1, d, 1, device="cuda"), False,
        )  # fmt: skip
        config = choose_config(1, length, d)._replace(chunk=length, segment=1)
        _, final_state, _ = scan_forward(inputs, config)
        truth = torch.exp(-step.double() * length)
        rounded = torch.exp(-step.double()).float().double() ** length
        drift = (final_state[0, :, 0].double().log() / truth.log() - 1).abs()
        ideal = (rounded.log() / truth.log() - 1).abs()
        split, _, _ = scan_forward(inputs, config._replace(chunk=256, segment=1))
        chunked = (split[0, -1].double().log() / truth.log() - 1).abs()
        rows.append(
            {
                "dt_A": rate,
                "decay_rate_error_max": drift.max().item(),
                "decay_rate_error_of_exact_fp32_factors": ideal.max().item(),
                "decay_rate_error_in_chunks_of_256": chunked.max().item(),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="correctness and the table of shapes only")
    parser.add_argument("--seconds", type=float, default=200.0, help="stop trying variants after this long")
    parser.add_argument("--workers", type=int, default=12, help="processes that compile variants ahead")
    parser.add_argument("--compile", nargs=2, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.compile:
        compile_share(*arguments.compile)
        return
    start = time.monotonic()
    results: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        results["seconds"] = time.monotonic() - start
        (arguments.out / "scan_gpu.json").write_text(json.dumps(results, indent=1, default=str))

    if not arguments.quick:
        compile_ahead(arguments.workers)
        print(f"compiled ahead: {time.monotonic() - start:.0f} s", flush=True)
    torch.use_deterministic_algorithms(
        True
    )  # torch.empty then gives NaN: what a kernel forgets to write shows
    results["checks"] = check_scan() + check_conv()
    torch.use_deterministic_algorithms(False)
    for row in results["checks"]:
        errors = " ".join(f"{k} {v:.1e}" for k, v in row["errors"].items())
        print("ok  " if row["passed"] and row["deterministic"] else "FAIL", row["case"], errors, flush=True)
    save()
    results["shapes"] = []
    for row in time_shapes():
        results["shapes"].append(row)
        print(row["shape"], {k: round(v, 3) for k, v in row["kernels_ms"].items()}, flush=True)
        save()
    results["conv"] = time_conv()
    results["slow_decays"] = slow_decays()
    for row in results["conv"] + results["slow_decays"]:
        print({k: v if isinstance(v, tuple) else float(f"{v:.3g}") for k, v in row.items()})
    save()
    if not arguments.quick:
        results["tuning"] = tune(start + arguments.seconds)
        for row in sorted(results["tuning"], key=lambda row: (row["kernel"], row["ms"])):
            print(f"{row['kernel']:14} {row['ms']:8.3f} ms  {row['change']}")
    save()
    print(
        f"\n{results['gpu']}, torch {torch.__version__}, triton {triton.__version__}, "
        f"{results['seconds']:.0f} s"
    )
    print(
        "batch, d_inner, length     forward   mamba_ssm  ratio    fwd+bwd   mamba_ssm  ratio  kept GB peak GB"
    )
    for row in results["shapes"]:
        ours, theirs = row["ours_ms"], row["mamba_ssm_ms"]
        columns = [f"{row['shape']!s:24}"]
        for k in ("forward", "both"):
            peer = theirs.get(k, float("nan"))
            columns.append(f"{ours[k]:9.3f} {peer:11.3f} {peer / ours[k]:6.2f}")
        print("  ".join(columns), f"{row['kept_gb']:9.2f} {row['peak_gb']:8.2f}")


if __name__ == "__main__":
    main()
