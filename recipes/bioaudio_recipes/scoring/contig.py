"""One strand of a contig, scored from end to end in constant memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from bioaudio_data.genome import GenomeStore
from bioaudio_data.vocabulary import DNA
from numpy.typing import NDArray

from bioaudio_mamba import CausalLM
from bioaudio_recipes.evaluation.streaming import Precision, Reader, stream_nats

StrandName = Literal["forward", "reverse"]
BYTES = np.dtype(np.float32).itemsize
READ_BASES = 2**16


@dataclass(frozen=True)
class ContigScore:
    """What one strand of a contig cost."""

    contig: str
    strand: StrandName
    length: int
    bases: int
    """Predicted: A, C, G and T, but for the first base that is read."""
    skipped: int
    """N, which are read but not scored."""
    bits: float
    """Sum over the predicted bases."""

    @property
    def bits_per_base(self) -> float | None:
        """Mean over the predicted bases; None where there are none."""
        return self.bits / self.bases if self.bases else None

    @property
    def perplexity(self) -> float | None:
        """2 to the bits per base."""
        return None if self.bits_per_base is None else 2.0**self.bits_per_base

    def to_dict(self) -> dict[str, Any]:
        """Its fields, bits per base and perplexity."""
        return asdict(self) | {"bits_per_base": self.bits_per_base, "perplexity": self.perplexity}


def score_contig(
    model: CausalLM,
    store: GenomeStore,
    contig: str,
    strand: StrandName,
    scratch: Path,
    *,
    tokens_per_batch: int,
    precision: Precision,
    advance: Callable[[int], object],
) -> ContigScore:
    """Write log2 of the probability of every base to the file `scratch`: float32 by coordinate, NaN for none.

    On the forward strand a base is predicted from all bases before it. On the reverse strand the model reads
    the reverse complement, from the contig's end to its start: a base is predicted from all bases after it.

    Args:
        model: on the device that is to do the work.
        store: holds the contig.
        contig: its name.
        strand: which one the model reads.
        scratch: written anew, 4 bytes a base: in pieces, from its end for the reverse strand.
        tokens_per_batch: bases in one forward pass.
        precision: bf16-mixed runs matrix products in bfloat16.
        advance: told how many more bases are done.

    Raises:
        ValueError: if the model gives a base a likelihood that is not finite.
    """
    length = store.contigs[contig]
    bases, bits = 0, 0.0
    pieces = stream_nats(
        model, _reader(store, contig, strand), length, piece_length=tokens_per_batch, precision=precision
    )
    with scratch.open("wb") as file:
        _write(file, np.full(1, np.nan, np.float32), 0, length, strand)
        for piece in pieces:
            is_base = piece.is_base[0].cpu().numpy()
            scores = piece.nats[0].cpu().numpy() / np.float32(-math.log(2))
            total = -float(scores[is_base].sum(dtype=np.float64))
            if not math.isfinite(total):
                raise ValueError(
                    f"the model's likelihoods are not finite in {contig}, {strand} strand, after reading "
                    f"{piece.start:,} bases: is it a diverged checkpoint?"
                )
            _write(file, np.where(is_base, scores, np.float32(np.nan)), piece.start, length, strand)
            bases, bits = bases + int(is_base.sum()), bits + total
            advance(len(scores))
    first = store.tokens(contig, 0, 1) if strand == "forward" else store.tokens(contig, length - 1, length)
    first_is_base = bool(DNA.A <= first[0] <= DNA.T)
    return ContigScore(contig, strand, length, bases, length - bases - first_is_base, bits)


def read_scores(scratch: Path) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """What `score_contig` wrote, `READ_BASES` at once: first coordinate and scores."""
    start = 0
    with scratch.open("rb") as file:
        while part := file.read(READ_BASES * BYTES):
            scores = np.frombuffer(part, np.float32)
            yield start, scores
            start += len(scores)


def _reader(store: GenomeStore, contig: str, strand: StrandName) -> Reader:
    length = store.contigs[contig]
    if strand == "forward":
        return lambda start, end: store.packed(contig, start, end)[None]
    return lambda start, end: DNA.reverse_complement(store.packed(contig, length - end, length - start))[None]


def _write(file: BinaryIO, scores: NDArray[np.float32], start: int, length: int, strand: StrandName) -> None:
    """Write scores in reading order, the first of them after `start` bases, to their coordinates."""
    first = start if strand == "forward" else length - start - len(scores)
    file.seek(first * BYTES)
    file.write((scores if strand == "forward" else scores[::-1]).tobytes())
