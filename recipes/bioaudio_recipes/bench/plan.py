"""What `bioaudio bench` runs: its races, the shapes of each, and who takes part."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from bioaudio_recipes.bench.contender import Contender
from bioaudio_recipes.bench.shape import Shape

Against = Literal["length", "batch"]
Numbers = int | list[int] | str | None
"""A flag's numbers: 1024, or 1024,4096, or a list in YAML."""


@dataclass(frozen=True, kw_only=True)
class Race:
    """One operation and who performs it."""

    name: str
    """Part of the names of its files."""
    title: str
    source: str
    """Module and function that make the contenders; imported only when they race."""
    sizes: tuple[str, ...]
    """What of a shape matters to it."""
    against: Against = "length"
    """Which of them differs from shape to shape."""

    def contenders(self) -> list[Contender]:
        """Ours first."""
        module, function = self.source.split(":")
        return getattr(importlib.import_module(f"bioaudio_recipes.bench.{module}"), function)()


SCAN = Race(
    name="scan",
    title="selective scan",
    source="scan:scan_contenders",
    sizes=("batch", "length", "d_inner", "d_state"),
)
CONV = Race(
    name="conv",
    title="causal convolution",
    source="conv:conv_contenders",
    sizes=("batch", "length", "d_inner"),
)
BLOCK = Race(
    name="block",
    title="Mamba block",
    source="block:block_contenders",
    sizes=("batch", "length", "d_model", "d_state"),
)
STEP = Race(
    name="step",
    title="one decoding step of a Mamba block",
    source="block:step_contenders",
    sizes=("batch", "d_model", "d_state"),
    against="batch",
)
LM = Race(
    name="lm",
    title="training step of a language model",
    source="lm:lm_contenders",
    sizes=("batch", "length", "d_model", "n_layer", "d_state"),
)
DECODE = Race(
    name="decode",
    title="decoding step of a language model",
    source="decode:decode_contenders",
    sizes=("batch", "d_model", "n_layer", "d_state"),
    against="batch",
)
# What is raced, by the name given on the command line.
RACES = {
    "scan": (SCAN, BLOCK),
    "conv": (CONV,),
    "block": (BLOCK,),
    "step": (STEP,),
    "lm": (LM,),
    "decode": (DECODE,),
}
# Flags that only some of them know.
SERVES = {
    "shapes": ("scan",),
    "batch": ("scan", "conv", "block", "step", "lm", "decode"),
    "lengths": ("scan", "conv", "block", "lm", "data"),
    "n_layer": ("lm", "decode"),
    "tokens": ("lm", "data"),
    "fasta": ("genome", "data"),
    "need": ("data",),
}
# The shapes (batch, channels, length) that the scan's speed is judged at, and the peer to beat.
TABLE = ((1, 512, 2**20), (1, 256, 2**20), (8, 1536, 8192), (32, 128, 16384), (64, 1024, 2048))
TABLE_PEER = "mamba_ssm"
# What runs where no flag says otherwise.
LENGTHS = {"cpu": [2048], "cuda": [2**power for power in range(10, 21, 2)]}
LM_LENGTHS = {"cpu": [2048], "cuda": [2**10, 2**14, 2**17, 2**20]}
LM_TOKENS = {"cpu": 2048, "cuda": 2**20}
DECODE_BATCHES = {"cpu": [1, 8], "cuda": [1, 8, 64, 256]}
D_MODEL, D_STATE, N_LAYER = 256, 16, 8


def check_flags(what: str, given: dict[str, Any]) -> None:
    """Refuse flags that `bench WHAT` does not know.

    Raises:
        ValueError: naming the flag.
    """
    for name, value in given.items():
        if value is not None and what not in SERVES.get(name, (what,)):
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} is for bench {', '.join(SERVES[name])}, not for bench {what}")


def contenders(race: Race, peers: Sequence[str] | None) -> list[Contender]:
    """Ours and the peers chosen; None chooses all."""
    return [c for c in race.contenders() if peers is None or c.peer is None or c.peer in peers]


def check_peers(what: str, peers: Sequence[str] | None) -> None:
    """Refuse peers that `bench WHAT` does not know.

    Raises:
        ValueError: naming them all.
    """
    every = [contender.peer for race in RACES[what] for contender in race.contenders()]
    known = list(dict.fromkeys(peer for peer in every if peer is not None))
    for peer in peers or ():
        if peer not in known:
            raise ValueError(f"--peers: bench {what} knows no {peer!r}; choose from {', '.join(known)}")


def table_shapes(base: Shape) -> list[Shape]:
    """`TABLE`."""
    return [replace(base, batch=batch, d_inner=d, length=length) for batch, d, length in TABLE]


def swept(what: str, base: Shape, *, batch: Numbers, lengths: Numbers, tokens: int | None) -> list[Shape]:
    """The shapes of `bench WHAT` for what was given on the command line, or the device's usual ones.

    Raises:
        ValueError: naming the flag that is wrong.
    """
    device = base.device
    if what == "decode":
        return [replace(base, batch=size) for size in numbers("--batch", batch, DECODE_BATCHES[device])]
    if what == "lm" and batch is None:
        total = LM_TOKENS[device] if tokens is None else tokens
        chosen = numbers("--lengths", lengths, LM_LENGTHS[device])
        if total < max(chosen):
            raise ValueError(
                f"--tokens is {total:,}, it must be at least the longest length, {max(chosen):,}"
            )
        return [replace(base, batch=total // length, length=length) for length in chosen]
    if tokens is not None:
        raise ValueError("give --tokens or --batch, not both: a step has as many tokens as they make")
    sizes = numbers("--batch", batch, [1])
    if len(sizes) > 1:
        raise ValueError(f"--batch takes one number for bench {what}; several are for bench decode")
    return [
        replace(base, batch=sizes[0], length=length)
        for length in numbers("--lengths", lengths, (LM_LENGTHS if what == "lm" else LENGTHS)[device])
    ]


def numbers(flag: str, given: Numbers, usual: Sequence[int]) -> list[int]:
    """Whole numbers above 0 in rising order, each once.

    Raises:
        ValueError: naming the flag.
    """
    if given is None:
        return list(usual)
    parts = given.split(",") if isinstance(given, str) else given if isinstance(given, list) else [given]
    try:
        found = sorted({int(part) for part in parts})
    except ValueError:
        found = []
    if not found or found[0] < 1:
        raise ValueError(f"{flag} is {given}; give whole numbers above 0, with commas between them")
    return found


def names(given: str | list[str] | None) -> list[str] | None:
    """Names with commas between them, or a list; None stays None."""
    parts = given.split(",") if isinstance(given, str) else given
    return None if parts is None else [part.strip() for part in parts]


def width(d_model: int | None, d_inner: int | None) -> int:
    """Channels, from the flag that was given.

    Raises:
        ValueError: if both were.
    """
    if d_model is not None and d_inner is not None:
        raise ValueError("give --d-model or --d-inner (twice as wide), not both")
    return d_inner if d_inner is not None else 2 * (D_MODEL if d_model is None else d_model)


def usual_dtype(device: str, given: str | None) -> torch.dtype:
    """float32 on a CPU and bfloat16 on a GPU unless one was given."""
    return getattr(torch, given or ("float32" if device == "cpu" else "bfloat16"))
