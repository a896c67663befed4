"""Exact training steps on sequences of a million tokens and far more, on one GPU.

    python recipes/benchmarks/long_gpu.py --out DIR [--tokens 67108864] [--fasta human.fa.gz]

With bfloat16 autocast and AdamW: a step at 2^20 in chunks of several lengths, for the 3.5 M (8 x 256) and the
7 M (16 x 256) model; one step on a single sequence of `--tokens` random bases; and, with a FASTA file, some
steps on all of its bases as one sequence. Prints a table; writes DIR/long_gpu.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from bioaudio_data.genome import GenomeStore, convert_genome
from bioaudio_recipes.optimisation import rescale_and_clip
from bioaudio_recipes.pretrain.next_token_loss import next_token_sums
from torch import Tensor

from bioaudio_mamba import CausalLM, MambaConfig


class Trainee:
    """A model with its optimizer."""

    def __init__(self, n_layer: int, learning_rate: float) -> None:
        config = MambaConfig(d_model=256, n_layer=n_layer)
        self.model = CausalLM(config, torch.Generator().manual_seed(0)).cuda()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), learning_rate, fused=True)

    def step(self, packed: Tensor, chunk_length: int | None) -> float:
        """One step on packed bases (1, length), which may be on the CPU; returns the loss in nats a base."""
        with torch.autocast("cuda", torch.bfloat16):
            sums = next_token_sums(self.model, packed, chunk_length=chunk_length)
        sums.weighted_nll.backward()
        rescale_and_clip(self.model.parameters(), 1 / sums.weight, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return (sums.nll / sums.targets).item()

    def measure(self, packed: Tensor, chunk_length: int | None, steps: int) -> dict[str, Any]:
        """Seconds of a step (the best of several), peak memory, and the loss of each."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        seconds, losses = [], []
        for _ in range(steps):
            torch.cuda.synchronize()
            started = time.perf_counter()
            losses.append(self.step(packed, chunk_length))
            seconds.append(time.perf_counter() - started)
        return {
            "layers": self.model.config.n_layer,
            "tokens": packed.numel(),
            "chunk": chunk_length,
            "seconds": min(seconds),
            "tokens_per_s": packed.numel() / min(seconds),
            "gigabytes": torch.cuda.max_memory_allocated() / 1e9,
            "losses": losses,
        }


def random_bases(length: int) -> Tensor:
    """Of the four, as packed tokens on the CPU."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(7, 11, (1, length), generator=generator, dtype=torch.uint8)


def bases_of(fasta: Path, out: Path) -> Tensor:
    """All contigs of a FASTA file, one after another."""
    path = out / "store"
    store = GenomeStore.open(path) if path.exists() else convert_genome([fasta], path, progress=False)
    parts = [torch.from_numpy(store.packed(name, 0, length).copy()) for name, length in store.contigs.items()]
    return torch.cat(parts)[None]


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=2**26, help="of the longest sequence; 0 leaves it out")
    parser.add_argument("--chunk", type=int, default=2**17, help="tokens of a chunk, for long sequences")
    parser.add_argument("--fasta", type=Path, help="what to read as one sequence")
    parser.add_argument("--steps", type=int, default=6, help="on the FASTA file")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    print("layers      tokens   chunk   s a step   tokens/s      GB  nats a base", flush=True)
    rows = []

    def report(row: dict[str, Any]) -> None:
        rows.append(row)
        (arguments.out / "long_gpu.json").write_text(json.dumps(rows, indent=1))
        losses = " ".join(f"{loss:.4f}" for loss in row["losses"])
        print(
            f"{row['layers']:6} {row['tokens']:11,} {row['chunk']:7} {row['seconds']:10.3f} "
            f"{row['tokens_per_s']:10,.0f} {row['gigabytes']:7.2f}  {losses}",
            flush=True,
        )

    if arguments.tokens:
        packed = random_bases(2**20)
        for layers in (8, 16):
            for chunk in (2**15, 2**16, 2**17, 2**18):
                report(Trainee(layers, arguments.learning_rate).measure(packed, chunk, steps=3))
        longest = random_bases(arguments.tokens)
        report(Trainee(8, arguments.learning_rate).measure(longest, arguments.chunk, steps=1))
    if arguments.fasta:
        bases = bases_of(arguments.fasta, arguments.out)
        report(Trainee(8, arguments.learning_rate).measure(bases, arguments.chunk, arguments.steps))


if __name__ == "__main__":
    main()
