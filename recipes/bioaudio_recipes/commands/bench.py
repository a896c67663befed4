"""`bioaudio bench`: our operations and their peers, timed in turn on this machine."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Literal

import torch

from bioaudio_recipes.bench import plan
from bioaudio_recipes.bench.clock import clock_for
from bioaudio_recipes.bench.race import Heat, race
from bioaudio_recipes.bench.record import versions, write_record
from bioaudio_recipes.bench.roofline import measure_device
from bioaudio_recipes.bench.shape import Shape
from bioaudio_recipes.bench.tables import EXPLANATION, heat_table, judged_table
from bioaudio_recipes.run_folder import device_name

ROUNDS = {"lm": 3}
SECONDS = {"cpu": 20.0, "cuda": 5.0}


def bench(
    what: Literal["scan", "conv", "block", "step", "lm", "decode", "genome", "data"],
    *,
    device: Literal["cpu", "cuda"] = "cpu",
    dtype: Literal["float32", "bfloat16"] | None = None,
    shapes: Literal["table"] | None = None,
    batch: int | list[int] | str | None = None,
    lengths: int | list[int] | str | None = None,
    tokens: int | None = None,
    d_model: int | None = None,
    d_inner: int | None = None,
    d_state: int = plan.D_STATE,
    n_layer: int | None = None,
    peers: str | list[str] | None = None,
    threads: int | None = None,
    rounds: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    fasta: Path | None = None,
    need: int | None = None,
    out: Path | None = None,
) -> str:
    """Time our operations against their peers in one run, after a check that they agree.

    Args:
        what: scan (the selective scan alone, then a whole Mamba block), conv, block, step (decoding with a
            block), lm (a training step of a language model), decode (with a language model), genome
            (windows of a genome store beside pyfaidx), or data (the loader of a pretraining, beside what a
            training step takes from it).
        device: Where to run.
        dtype: Of inputs, and of a decoding model's weights; bfloat16 runs blocks and training under autocast.
            Default: float32 on a CPU, bfloat16 on a GPU.
        shapes: For scan: table times the five shapes that its speed is judged at, and nothing else.
        batch: Sequences at once, by default 1; for decode several, as 1,8,64; for lm in place of --tokens.
        lengths: Time steps, one number or several such as 1024,4096; several make a plot.
        tokens: For lm: tokens of a step at every length. Default: 2,048 on a CPU, 1,048,576 on a GPU. For
            data: tokens of a micro-batch, 1,048,576 by default.
        d_model: Width of a block, 256 by default; scan and convolution have twice as many channels.
        d_inner: Channels, in place of --d-model.
        d_state: States of a channel.
        n_layer: Blocks of a language model, 8 by default.
        peers: Whom to time beside ours, such as mamba_ssm,attention; default: everyone.
        threads: Of torch and of our CPU kernels; default: as torch chooses.
        rounds: Times that each contender runs, 15 by default and 3 for lm; medians are shown.
        seconds: A contender that has run this long at a shape is not run again. Default: 20, on a GPU 5.
        seed: Of inputs and weights.
        fasta: For genome and data: the file to read windows of; default: the sample of the package.
        need: For data: tokens per second that one GPU trains on, 3,000,000 by default.
        out: Folder for bench-WHAT.json with all figures and the environment, and for the plots.
    """
    given = {"shapes": shapes, "batch": batch, "lengths": lengths, "tokens": tokens}
    plan.check_flags(what, given | {"n_layer": n_layer, "fasta": fasta, "need": need})
    if what == "genome":
        from bioaudio_recipes.bench.genome import bench_genome

        return bench_genome(fasta)
    if what == "data":
        from bioaudio_recipes.bench import data

        return data.bench_data(
            fasta,
            plan.numbers("--lengths", lengths, data.LENGTHS),
            tokens=data.TOKENS if tokens is None else tokens,
            need=data.NEED if need is None else need,
            seconds=data.SECONDS if seconds is None else seconds,
            seed=seed,
        )
    rounds = ROUNDS.get(what, 15) if rounds is None else rounds
    seconds = SECONDS[device] if seconds is None else seconds
    for name, value in (("rounds", rounds), ("threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"--{name} is {value}, it must be at least 1")
    base = Shape(
        d_inner=plan.width(d_model, d_inner),
        d_state=d_state,
        n_layer=plan.N_LAYER if n_layer is None else n_layer,
        device=device,
        dtype=plan.usual_dtype(device, dtype),
        seed=seed,
    )
    chosen = plan.names(peers)
    if shapes is None:
        races = plan.RACES[what]
        sizes = plan.swept(what, base, batch=batch, lengths=lengths, tokens=tokens)
    elif any(value is not None for value in (batch, lengths, d_model, d_inner)):
        raise ValueError(
            "--shapes brings its own --batch, --lengths and --d-inner; leave them and --d-model out"
        )
    else:
        races, sizes = (plan.SCAN,), plan.table_shapes(base)
        chosen = [plan.TABLE_PEER] if chosen is None else chosen
    plan.check_peers(what, chosen)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)

    before = torch.get_num_threads()
    torch.set_num_threads(before if threads is None else threads)
    try:
        limits, clock = measure_device(device), clock_for(device)
        used = torch.get_num_threads()
        where = device_name(device) + (f", {used} threads" if device == "cpu" else "")
        settings = {"rounds": rounds, "seconds": seconds, "seed": seed, "threads": used}
        heats: dict[plan.Race, list[Heat]] = {}
        files: list[Path] = []
        for entered in races:
            field = plan.contenders(entered, chosen)
            for size in sizes:
                heat = race(field, size, clock, rounds=rounds, seconds=seconds, label=entered.title)
                heats.setdefault(entered, []).append(heat)
                if out is not None:  # after every shape: a run that is stopped keeps what it has
                    files = write_record(out, what, heats, device=limits, where=where, settings=settings)
    finally:
        torch.set_num_threads(before)

    speed = f"copies at {limits.bytes_per_second / 1e9:,.1f} GB/s"
    known = versions(chain.from_iterable(heats.values())).items()
    packages = ", ".join(f"{package} {version}" for package, version in known if version)
    parts = [f"{where}, {speed}; {packages}\n{EXPLANATION}"]
    for entered, results in heats.items():
        for heat in results:
            parts.append(f"{entered.title}: {heat.shape.describe(entered.sizes)}\n{heat_table(heat, limits)}")
    if shapes is not None:
        parts.append(judged_table(heats[plan.SCAN], plan.TABLE_PEER))
    if files:
        parts.append("written: " + ", ".join(map(str, files)))
    return "\n\n".join(parts)
