"""Other ways to cut the work of each Triton scan kernel, and other chunk lengths at every shape."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from bioaudio_kernels.selective_scan.triton_config import ScanConfig, choose_config
from bioaudio_kernels.selective_scan.triton_launch import (
    ScanInputs,
    launch_chunk_states,
    launch_forward_sweep,
    launch_outputs,
    launch_reverse_sweep,
)
from bioaudio_kernels.selective_scan.triton_scan import allocate_segment, scan_forward
from scan_gpu_kernels import make_inputs, time_kernels


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


def tune(shapes: list[tuple[int, int, int]], deadline: float) -> list[dict[str, Any]]:
    """Variants of every kernel at the first shape, and chunk lengths at all of them, until time is up."""
    rows: list[dict[str, Any]] = []

    def add(shape: tuple[int, int, int], change: Any, times: dict[str, float]) -> None:
        rows.extend({"shape": shape, "kernel": k, "change": change, "ms": ms} for k, ms in times.items())

    first = shapes[0]
    inputs = make_inputs(*first)
    base = choose_config(first[0], first[2], first[1])
    single = inputs._replace(B=inputs.B.float(), C=inputs.C.float())
    add(first, "B and C in float32", time_kernels(single, base))
    del single
    for kernel, change in tuning_cases():
        if time.monotonic() < deadline:
            add(first, change, time_kernels(inputs, base._replace(**change), kernel))
    del inputs
    for batch, d_inner, length in shapes:
        inputs = make_inputs(batch, d_inner, length)
        for chunk in (128, 256, 512, 1024, 2048):
            if chunk <= length and time.monotonic() < deadline:
                change = {"chunk": chunk, "segment": max(1, 2**27 // (batch * d_inner * chunk))}
                times = time_kernels(inputs, choose_config(batch, length, d_inner)._replace(**change))
                add((batch, d_inner, length), change, times | {"all": sum(times.values())})
    return rows


def compile_ahead(workers: int) -> None:
    """Fill Triton's cache in parallel processes, each with its share of the variants, on a short sequence."""
    command = [sys.executable, __file__]
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


if __name__ == "__main__":
    compile_share(int(sys.argv[1]), int(sys.argv[2]))
