"""Tokens per second that the loader of a pretraining delivers, beside what a training step takes from it.

The batches are those of `bioaudio pretrain`: the `mamba` rule's windows of a genome store in a random order,
half of them read from the opposite strand, through the same loader, with and without worker processes.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from bioaudio_data.augment import Augmentation
from bioaudio_data.genome import GenomeStore, convert_genome
from bioaudio_data.interval import Interval
from bioaudio_data.windows import StagePlan, Windows

from bioaudio_recipes.bench.genome import plain_fasta
from bioaudio_recipes.pretrain.batch_order import BatchOrder, ResumableLoader
from bioaudio_recipes.pretrain.packed_windows import PackedWindows
from bioaudio_recipes.pretrain.training_batches import TrainingBatches

LENGTHS = tuple(2**power for power in range(10, 21))
WORKERS = (0, 2, 4)
TOKENS = 2**20
NEED = 3_000_000
MARGIN = 3.0
SECONDS = 1.0
WARM_UP = 8


def bench_data(
    fasta: Path | None = None,
    lengths: Sequence[int] = LENGTHS,
    *,
    tokens: int = TOKENS,
    need: int = NEED,
    seconds: float = SECONDS,
    seed: int = 0,
) -> str:
    """Time the loader alone at each window length, with 0, 2 and 4 workers, and make a table of the results.

    Args:
        fasta: genome to read, plain or gzip; default: the human sample of the package, 64 times over (16 Mb).
        lengths: of the windows.
        tokens: of a micro-batch, at least one window.
        need: tokens per second that one GPU trains on.
        seconds: to deliver batches for, at each length and number of workers.
        seed: of the order and of the strands.

    Raises:
        ValueError: if no contig holds a window, or a number is not above 0.
    """
    if tokens < 1 or need < 1 or seconds <= 0:
        raise ValueError(
            f"--tokens, --need and --seconds must be above 0, got {tokens}, {need} and {seconds}"
        )
    with tempfile.TemporaryDirectory() as folder:
        plain = plain_fasta(fasta, Path(folder) / "genome.fa")
        store = convert_genome([plain], Path(folder) / "store", ambiguous="n", soft_mask="drop")
        rows = []
        for length in lengths:
            rates = [
                _tokens_per_second(store, length, max(tokens, length), workers, seconds, seed)
                for workers in WORKERS
            ]
            cells = "  ".join(f"{rate / 1e6:>9.1f}  {rate / need:>6.1f}x" for rate in rates)
            short = "  too slow" if rates[1] < MARGIN * need else ""
            rows.append(f"{length:>9,}  {cells}{short}")
    heads = "  ".join(f"{f'{workers} workers':>9}  {'need':>7}" for workers in WORKERS)
    return "\n".join(
        [
            f"million tokens a second from the loader alone, in micro-batches of {tokens:,} tokens, and how "
            f"many times the need of one GPU ({need / 1e6:g} M) that is",
            f"{'window':>9}  {heads}",
            *rows,
        ]
    )


def _tokens_per_second(
    store: GenomeStore, length: int, tokens: int, workers: int, seconds: float, seed: int
) -> float:
    segments = [Interval(contig, 0, size) for contig, size in store.contigs.items()]
    windows = PackedWindows([store], [Windows(segments, length, "mamba", store.contigs)])
    batch_size = tokens // length
    endless = StagePlan(
        length=length, windows=len(windows), batch_size=batch_size, tokens=tokens, epochs=1.0, steps=2**40
    )
    loader = ResumableLoader(
        TrainingBatches([windows], Augmentation(reverse_complement=0.5), seed),
        BatchOrder([endless], seed=seed, accumulation=1),
        num_workers=workers,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # more workers than cores
        batches = iter(loader)
        for _ in range(WARM_UP):
            next(batches)
    begin, delivered, spent = time.perf_counter(), 0, 0.0
    while spent < seconds:
        delivered += next(batches).numel()
        spent = time.perf_counter() - begin
    return delivered / spent
