"""Correctness and speed of the Triton scan and convolution on one GPU, beside mamba_ssm where importable.

    python kernels/benchmarks/scan_gpu.py --out DIR [--quick] [--seconds 200]

Checks every kernel against the float64 reference; times the built-in configuration against mamba_ssm, in
turn; then kernel by kernel other ways to cut the work (channels per program, unrolling, warps, chunk, B and C
in float32); and measures what the hardware's exp2 does to slow decays. Writes DIR/scan_gpu.json and prints
tables, the shortest last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from bioaudio_kernels.causal_conv1d.triton_op import causal_conv1d_triton
from bioaudio_kernels.selective_scan.triton_config import choose_config
from bioaudio_kernels.selective_scan.triton_launch import ScanInputs
from bioaudio_kernels.selective_scan.triton_op import selective_scan_triton
from bioaudio_kernels.selective_scan.triton_scan import scan_forward
from scan_gpu_checks import check_conv, check_scan, slow_decays
from scan_gpu_kernels import make_inputs, milliseconds, time_kernels
from scan_gpu_tuning import compile_ahead, tune

SHAPES = [(1, 512, 2**20), (1, 256, 2**20), (8, 1536, 8192), (32, 128, 16384), (64, 1024, 2048)]


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="correctness and the table of shapes only")
    parser.add_argument("--seconds", type=float, default=200.0, help="stop trying variants after this long")
    parser.add_argument("--workers", type=int, default=12, help="processes that compile variants ahead")
    arguments = parser.parse_args()
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
        results["tuning"] = tune(SHAPES, start + arguments.seconds)
        order = sorted(results["tuning"], key=lambda row: (str(row["shape"]), row["kernel"], row["ms"]))
        for row in order:
            print(f"{row['shape']!s:22} {row['kernel']:14} {row['ms']:8.3f} ms  {row['change']}")
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
