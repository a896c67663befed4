"""The memory that scoring takes, measured in a process where nothing else allocates."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import torch
from bioaudio_data.genome import GenomeStore
from bioaudio_recipes.scoring.contig import score_contig

from bioaudio_mamba import CausalLM, MambaConfig

TOKENS = 4_000


def peaks_of_scoring(store: Path, contigs: list[str], scratch: Path) -> tuple[list[int], int]:
    """Most bytes that Python and numpy hold while each contig is scored, and the longest batch read."""
    model = CausalLM(MambaConfig(d_model=8, n_layer=2, d_state=4), torch.Generator().manual_seed(1))
    read: list[int] = []
    model.register_forward_hook(lambda _, tokens, __: read.append(tokens[0].numel()))
    genome = GenomeStore.open(store)

    def score(contig: str) -> None:
        score_contig(
            model,
            genome,
            contig,
            "reverse",
            scratch,
            tokens_per_batch=TOKENS,
            precision="32-true",
            advance=lambda _: gc.collect(),
        )

    score(contigs[0])  # compiles
    gc.freeze()
    peaks = []
    for contig in contigs:
        tracemalloc.start()
        score(contig)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return peaks, max(read)
