"""Correctness and speed of the decoding steps on one GPU, beside mamba_ssm's and causal_conv1d's.

    python kernels/benchmarks/step_gpu.py --out DIR [--seconds 35]
    compute-sanitizer --tool racecheck python kernels/benchmarks/step_gpu.py --sanitize

Checks the scan's step and the convolution's against the float64 reference; times one call of each, from
Python and inside a CUDA graph, new state and in place, ours and theirs in turn; then, as long as there is
time, other ways to cut the scan's step. Writes DIR/step_gpu.json and prints a table last.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from bioaudio_kernels import causal_conv1d_step, selective_scan_step
from bioaudio_kernels.compat import causal_conv1d_update, selective_state_update
from bioaudio_kernels.selective_scan import triton_step
from step_gpu_checks import D_STATE, check_conv_update, check_rows_and_heads, check_scan_step, scan_arguments
from torch import Tensor

SHAPES = [(1, 512), (1, 2048), (1, 4096), (64, 512), (64, 2048), (64, 4096)]
STEPS_IN_GRAPH = 20
Call = Callable[[], Any]


def conv_arguments(batch: int, d: int, width: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, weight, bias, and the state as mamba_ssm keeps it, (batch, d, width)."""
    x = torch.randn(batch, 2 * d, device="cuda", dtype=torch.bfloat16)[:, :d]
    weight, bias = torch.randn(d, width, device="cuda").bfloat16(), torch.randn(d, device="cuda").bfloat16()
    return x, weight, bias, torch.randn(batch, d, width, device="cuda", dtype=torch.bfloat16)


def peers() -> dict[str, Any]:
    """mamba_ssm's and causal_conv1d's steps, as far as they can be imported."""
    found = {}
    try:
        from mamba_ssm.ops.triton.selective_state_update import selective_state_update as peer

        found["scan"] = peer
    except Exception as error:
        print("mamba_ssm:", error)
    try:
        from causal_conv1d import causal_conv1d_update as peer

        found["conv"] = peer
    except Exception as error:
        print("causal_conv1d:", error)
    return found


def from_python(call: Call, calls: int = 200) -> float:
    """Microseconds a call when Python launches them: what costs more, the launch or the work."""
    call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls * 1e6


def in_graph(call: Call, replays: int = 20) -> float:
    """Microseconds a call when a CUDA graph launches them: the work alone, states in the cache."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(STEPS_IN_GRAPH):
            call()
    graph.replay()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(replays):
        graph.replay()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / (replays * STEPS_IN_GRAPH) * 1e3


def contenders(batch: int, d: int, found: dict[str, Any]) -> dict[str, dict[str, Call]]:
    """Op -> who -> one step."""
    given = scan_arguments(batch, d)
    state = given.pop("state")
    ours, theirs = state.clone(), state.clone()
    order = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias")
    update = [given[name] for name in order]
    x, weight, bias, inputs = conv_arguments(batch, d)
    rows, own_inputs, peer_inputs = inputs[..., 1:].mT.contiguous(), inputs.clone(), inputs.clone()
    calls: dict[str, dict[str, Call]] = {
        "scan": {
            "new state": lambda: selective_scan_step(*update, state),
            "in place": lambda: selective_state_update(ours, *update, True),
        },
        "conv": {
            "new state": lambda: causal_conv1d_step(x, weight, bias, rows, activation="silu"),
            "in place": lambda: causal_conv1d_update(x, own_inputs, weight, bias, "silu"),
        },
    }
    if "scan" in found:
        calls["scan"]["peer"] = lambda: found["scan"](theirs, *update, True)
    if "conv" in found:
        calls["conv"]["peer"] = lambda: found["conv"](x, peer_inputs, weight, bias, "silu")
    return calls


def time_steps(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for batch, d in SHAPES:
        for op, calls in contenders(batch, d, found).items():
            times: dict[str, dict[str, list[float]]] = {
                way: {who: [] for who in calls} for way in ("python", "graph")
            }
            for _ in range(3):  # in turn, so that a drifting clock hits all
                for who, call in calls.items():
                    times["python"][who].append(from_python(call))
                    times["graph"][who].append(in_graph(call))
            medians = {
                way: {who: statistics.median(t) for who, t in row.items()} for way, row in times.items()
            }
            yield {"op": op, "batch": batch, "d_inner": d} | medians


class _WithWarps:
    """The step's kernel on more warps than the built-in rule gives it."""

    def __init__(self, kernel: Any, warps: int) -> None:
        self.kernel, self.warps = kernel, warps

    def __getitem__(self, grid: tuple[int, ...]) -> Call:
        return lambda *arguments, **options: self.kernel[grid](
            *arguments, **(options | {"num_warps": self.warps})
        )


def try_blocks(deadline: float) -> Iterator[dict[str, Any]]:
    """In a graph, other numbers of floats of the state in a tile, of tiles, and of warps, a program."""
    kernel, rule = triton_step.step_kernel, triton_step.choose_step_block
    for warps, size, tiles in itertools.product((1, 2, 4), (128, 256, 512, 1024), (1, 2, 4)):
        if 128 * warps <= size <= 1024 // tiles and time.monotonic() < deadline:
            block = size // D_STATE, D_STATE, tiles
            triton_step.choose_step_block = lambda *_, block=block: block
            triton_step.step_kernel = _WithWarps(kernel, warps)
            for batch, d in ((1, 512), (1, 4096), (64, 512), (64, 4096)):
                given = scan_arguments(batch, d)
                call = lambda given=given: triton_step.selective_scan_step_in_place(**given)  # noqa: E731
                yield {
                    "batch": batch,
                    "d_inner": d,
                    "floats": size,
                    "tiles": tiles,
                    "warps": warps,
                    "us": in_graph(call),
                }
    triton_step.step_kernel, triton_step.choose_step_block = kernel, rule


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sanitize", action="store_true", help="run the scan's step once, time nothing")
    parser.add_argument("--seconds", type=float, default=35.0, help="try no other blocks after this long")
    arguments = parser.parse_args()
    if arguments.sanitize:
        for batch, d in SHAPES:
            triton_step.selective_scan_step_in_place(**scan_arguments(batch, d))
        torch.cuda.synchronize()
        return
    if arguments.out is None:
        parser.error("--out DIR is needed, unless --sanitize is given")
    start = time.monotonic()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
    }

    def save(name: str, rows: Iterator[dict[str, Any]]) -> None:
        for row in rows:
            results.setdefault(name, []).append(row)
            if name == "checks":
                errors = " ".join(f"{key} {error:.1e}" for key, error in row["errors"].items())
                print("ok  " if row["passed"] else "FAIL", row["case"], errors, flush=True)
        results["seconds"] = time.monotonic() - start
        (arguments.out / "step_gpu.json").write_text(json.dumps(results, indent=1))

    for check in (check_scan_step, check_rows_and_heads, check_conv_update):
        save("checks", check())
    print(f"checked: {results['seconds']:.0f} s", flush=True)
    save("times", time_steps(peers()))
    print(f"timed: {results['seconds']:.0f} s", flush=True)
    save("blocks", try_blocks(start + arguments.seconds))
    for row in sorted(results.get("blocks", []), key=lambda row: (row["batch"], row["d_inner"], row["us"])):
        text = (
            "batch {batch:3} d_inner {d_inner:5} floats {floats:5} tiles {tiles} warps {warps} {us:7.2f} us"
        )
        print(text.format(**row))
    versions = f"torch {torch.__version__}, triton {triton.__version__}"
    print(f"\n{results['gpu']}, {versions}, {results['seconds']:.0f} s")
    print("microseconds a step           from Python                       in a CUDA graph")
    print("op    batch d_inner  new state  in place   peer  ratio  new state  in place   peer  ratio")
    for row in results["times"]:
        columns = [f"{row['op']:5} {row['batch']:5} {row['d_inner']:7}"]
        for way in ("python", "graph"):
            times = row[way]
            peer = times.get("peer", float("nan"))
            ours = times["in place"]
            columns.append(f"{times['new state']:10.1f} {ours:9.1f} {peer:6.1f} {peer / ours:6.2f}")
        print(" ".join(columns))


if __name__ == "__main__":
    main()
