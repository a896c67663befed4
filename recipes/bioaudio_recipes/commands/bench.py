"""`bioaudio bench`: our operations and their peers, timed in turn on this machine."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch

from bioaudio_recipes.bench.shape import Shape
from bioaudio_recipes.bench.timing import Contender, race, table
from bioaudio_recipes.run_folder import describe_environment, device_name, now, write_json

# What is raced, by the name given on the command line; a module is imported only when it is asked for.
RACES: dict[str, list[tuple[str, str]]] = {
    "scan": [("selective scan", "scan:scan_contenders"), ("Mamba block", "block:block_contenders")],
    "conv": [("causal convolution", "conv:conv_contenders")],
    "block": [("Mamba block", "block:block_contenders")],
    "step": [("Mamba block, one decoding step", "block:step_contenders")],
}


def bench(
    what: Literal["scan", "conv", "block", "step", "genome"],
    *,
    device: Literal["cpu", "cuda"] = "cpu",
    dtype: Literal["float32", "bfloat16"] = "float32",
    batch: int = 1,
    length: int = 2048,
    d_model: int = 256,
    d_state: int = 16,
    threads: int | None = None,
    rounds: int = 15,
    seconds: float = 20.0,
    fasta: Path | None = None,
    out: Path | None = None,
) -> str:
    """Time our operations against their peers in one run, after a check that they agree.

    Args:
        what: scan (the selective scan alone, then a whole Mamba block), conv, block, step (decoding), or
            genome (windows of a genome store beside pyfaidx).
        device: Where to run.
        dtype: Of inputs; bfloat16 runs a whole block under autocast.
        batch: Sequences at once.
        length: Time steps.
        d_model: Width of the block; the scan has twice as many channels.
        d_state: States of a channel.
        threads: Of torch and of our CPU kernels; default: as torch chooses.
        rounds: Times that each contender runs; the median is shown.
        seconds: A contender that has run this long is not run again.
        fasta: For genome: the file to read windows of; default: the sample of the package.
        out: Folder for bench-WHAT.json with all figures and the environment.
    """
    if what == "genome":
        from bioaudio_recipes.bench.genome import bench_genome

        return bench_genome(fasta)
    if rounds < 1:
        raise ValueError(f"--rounds is {rounds}, it must be at least 1")
    shape = Shape(
        batch=batch,
        length=length,
        d_model=d_model,
        d_state=d_state,
        device=device,
        dtype=getattr(torch, dtype),
    )
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        results = {
            title: race(_contenders(source)(shape), rounds=rounds, seconds=seconds, label=title)
            for title, source in RACES[what]
        }
        used = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    where = device_name(device) + (f", {used} threads" if device == "cpu" else "")
    if out is not None:
        record = {
            "kind": "bench",
            "what": what,
            "shape": str(shape),
            "where": where,
            "date": now(),
            "environment": describe_environment(),
            "results": {title: [asdict(timing) for timing in timings] for title, timings in results.items()},
        }
        write_json(out / f"bench-{what}.json", record)
    tables = [table(f"{title}, milliseconds (median)", timings) for title, timings in results.items()]
    return "\n\n".join([f"{shape}; {where}", *tables])


def _contenders(source: str) -> Callable[[Shape], list[Contender]]:
    module, function = source.split(":")
    return getattr(importlib.import_module(f"bioaudio_recipes.bench.{module}"), function)
