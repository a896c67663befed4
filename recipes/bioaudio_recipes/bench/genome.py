"""`bioaudio bench genome`: random windows of a genome store beside pyfaidx on the same FASTA file.

Both end in a numpy array of token ids, in one process, from the page cache. The store copies bytes out of its
memory map. pyfaidx, its index built and its handle open (`as_raw`, its fastest way), reads lines and joins
them to a string, whose ids `Vocabulary.encode` looks up; the time of that string alone is shown too.
"""

from __future__ import annotations

import gzip
import importlib
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bioaudio_data.genome import GenomeStore, convert_genome
from bioaudio_data.samples import great_apes_chr22
from bioaudio_data.vocabulary import DNA

LENGTHS = (1_024, 131_072, 1_048_576)
BASES_A_ROUND = 1 << 24
LEAST_WINDOWS, MOST_WINDOWS = 16, 1_000
ROUNDS = 10
SAMPLE_COPIES = 64
Window = tuple[str, int, int]
Reader = Callable[[str, int, int], Any]


def bench_genome(fasta: Path | None = None, *, seed: int = 0) -> str:
    """Time windows of 1 kb, 131 kb and 1 Mb, and make the table of the results.

    Args:
        fasta: Genome to read, plain or gzip; default: the human sample of the package, 64 times over (16 Mb).
        seed: Of the places of the windows.

    Raises:
        ValueError: if pyfaidx is not installed, if no contig holds a window, or if the two disagree.
    """
    try:
        pyfaidx = importlib.import_module("pyfaidx")
    except ImportError as error:
        raise ValueError("bench genome needs pyfaidx: pip install 'bioaudio-mamba[bench]'") from error
    with tempfile.TemporaryDirectory() as folder:
        plain = plain_fasta(fasta, Path(folder) / "genome.fa")
        store = convert_genome([plain], Path(folder) / "store", ambiguous="n", soft_mask="drop")
        with pyfaidx.Fasta(str(plain), as_raw=True) as lines:

            def string(contig: str, start: int, end: int) -> str:
                return lines[contig][start:end]

            def tokens(contig: str, start: int, end: int) -> np.ndarray:
                return DNA.encode(string(contig, start, end))

            rows = []
            for length in LENGTHS:
                windows = _windows(store, length, seed)
                _check_agreement(store.tokens, tokens, windows[0])
                ours, theirs, raw = _microseconds([store.tokens, tokens, string], windows)
                rows.append(
                    f"{length:>9,}  {ours:>10.2f}  {theirs:>10.2f}  {theirs / ours:>6.1f}x"
                    f"  {raw:>10.2f}  {raw / ours:>6.1f}x"
                )
    return "\n".join(
        [
            f"microseconds a window (best of {ROUNDS} rounds over the same random windows, one process)",
            f"{'window':>9}  {'store':>10}  {'pyfaidx':>10}  {'faster':>7}  {'string':>10}  {'faster':>7}",
            *rows,
        ]
    )


def plain_fasta(fasta: Path | None, out: Path) -> Path:
    """The FASTA file without compression, as pyfaidx needs it, in a folder where it may write its index."""
    source = great_apes_chr22()["human"] if fasta is None else fasta
    with source.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
    with gzip.open(source) if compressed else source.open("rb") as text, out.open("wb") as plain:
        if fasta is None:
            header, bases = text.readline(), text.read()
            whole_lines = bases[: bases.rindex(b"\n", 0, -1) + 1]
            plain.write(header + whole_lines * SAMPLE_COPIES)
        else:
            shutil.copyfileobj(text, plain)
    return out


def _windows(store: GenomeStore, length: int, seed: int) -> list[Window]:
    """Random windows, of contigs in proportion to the places that each has for them."""
    places = {contig: size - length + 1 for contig, size in store.contigs.items() if size >= length}
    if not places:
        raise ValueError(f"no contig has {length:,} bases; give a larger --fasta")
    rng = np.random.default_rng(seed)
    count = min(MOST_WINDOWS, max(LEAST_WINDOWS, BASES_A_ROUND // length))
    weights = np.array(list(places.values())) / sum(places.values())
    contigs = rng.choice(list(places), count, p=weights)
    starts = [int(rng.integers(places[str(contig)])) for contig in contigs]
    return [(str(contig), start, start + length) for contig, start in zip(contigs, starts, strict=True)]


def _check_agreement(ours: Reader, theirs: Reader, window: Window) -> None:
    """What is timed must be the same; UNK, which only pyfaidx's way has, is N in a store."""
    expected = theirs(*window)
    if not np.array_equal(ours(*window), np.where(expected == DNA.UNK, DNA.N, expected)):
        raise ValueError(f"the genome store and pyfaidx disagree at {window}")


def _microseconds(readers: list[Reader], windows: list[Window]) -> list[float]:
    """Best time of each reader, the one least disturbed by other work; rounds alternate between them."""
    rounds = [[_one_round(reader, windows) for reader in readers] for _ in range(ROUNDS)]
    return [float(seconds) for seconds in np.min(rounds, axis=0) * 1e6 / len(windows)]


def _one_round(reader: Reader, windows: list[Window]) -> float:
    begin = time.perf_counter()
    for contig, start, end in windows:
        reader(contig, start, end)
    return time.perf_counter() - begin
