"""Scores of a language model at one context length: in total, and by the number of bases read before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from bioaudio_mamba import CausalLM
from bioaudio_recipes.evaluation.passage import Passage
from bioaudio_recipes.evaluation.streaming import Piece, Precision, check_tokens_per_batch, stream_nats
from bioaudio_recipes.pretrain.packed_windows import PackedWindows

BINS_PER_OCTAVE = 2


@dataclass(frozen=True)
class LengthScore:
    """What sequences of at most `length` bases cost, in the bins of `position_edges(length)`.

    The first base of a sequence is not predicted. N and other non-bases count nowhere.
    """

    length: int
    """Bases of the longest sequence."""
    nats: NDArray[np.float64]
    """(bins,) sums of the negative log-likelihoods."""
    bases: NDArray[np.int64]
    """(bins,) predicted bases."""

    @property
    def bits_per_base(self) -> float:
        """Mean over all predicted bases."""
        return float(self.nats.sum() / self.bases.sum()) / math.log(2)

    @property
    def perplexity(self) -> float:
        """2 to the bits per base: 4 is a blind guess among four bases."""
        return 2.0**self.bits_per_base

    def by_position(self) -> list[dict[str, float]]:
        """Mean bits per base by the number of bases read before.

        Returns:
            One entry a bin that has bases: `first` and `last` number of bases read, `bits_per_base`, `bases`.
        """
        edges = position_edges(self.length).tolist()
        return [
            {"first": first, "last": end - 1, "bits_per_base": nats / bases / math.log(2), "bases": bases}
            for first, end, nats, bases in zip(
                edges[:-1], edges[1:], self.nats.tolist(), self.bases.tolist(), strict=True
            )
            if bases
        ]


def position_edges(length: int) -> NDArray[np.int64]:
    """Borders of bins of the numbers 1 to `length` - 1: (bins + 1,), `BINS_PER_OCTAVE` to a doubling."""
    octaves = math.ceil(math.log2(length) * BINS_PER_OCTAVE) + 1
    edges = np.unique(np.ceil(2.0 ** (np.arange(octaves) / BINS_PER_OCTAVE)).astype(np.int64))
    return np.append(edges[edges < length], length)


def score_windows(
    model: CausalLM,
    windows: PackedWindows,
    *,
    tokens_per_batch: int = 2**16,
    precision: Precision = "32-true",
    progress: bool = False,
) -> LengthScore:
    """Predict every base of every window from those before it in the window.

    Windows longer than `tokens_per_batch` are read piece by piece with the state carried over, so that only
    their packed bases, a byte each, are in memory whole. The result does not depend on `tokens_per_batch`
    beyond rounding.

    Args:
        model: on the device that is to do the work.
        windows: of one length.
        tokens_per_batch: tokens in one forward pass.
        precision: bf16-mixed runs matrix products in bfloat16.
        progress: whether to show a bar on stderr.

    Raises:
        ValueError: if the windows hold no A, C, G or T to predict, or tokens_per_batch is below 1.
    """
    check_tokens_per_batch(tokens_per_batch)
    sums = _PositionSums(windows.length)
    batch_size = max(1, tokens_per_batch // windows.length)
    with _bar(len(windows) * windows.length, f"windows of {windows.length}", progress) as bar:
        for first in range(0, len(windows), batch_size):
            batch = windows.read(np.arange(first, min(first + batch_size, len(windows))))
            pieces = stream_nats(
                model,
                lambda start, end, batch=batch: batch[:, start:end],
                windows.length,
                piece_length=tokens_per_batch,
                precision=precision,
            )
            for piece in pieces:
                sums.add(piece)
                bar.update(piece.nats.numel())
    return sums.result(f"the windows of {windows.length} bases hold")


def score_passages(
    model: CausalLM,
    passages: Sequence[Passage],
    *,
    tokens_per_batch: int = 2**16,
    precision: Precision = "32-true",
    progress: bool = False,
) -> LengthScore:
    """Predict the scored bases of every passage from all bases before them in the passage.

    Each passage is streamed, with neither its tokens nor its scores ever in memory as a whole; the other
    arguments and errors are those of `score_windows`.
    """
    check_tokens_per_batch(tokens_per_batch)
    sums = _PositionSums(max(map(len, passages)))
    with _bar(sum(map(len, passages)), "whole passages", progress) as bar:
        for passage in passages:
            for piece in stream_nats(
                model, passage.read, len(passage), piece_length=tokens_per_batch, precision=precision
            ):
                sums.add(piece, torch.from_numpy(passage.is_scored(piece.start, piece.nats.shape[1])))
                bar.update(piece.nats.numel())
    return sums.result("the passages hold")


def _bar(total: int, description: str, progress: bool) -> tqdm:
    quiet = None if progress else True  # None: only on a terminal
    return tqdm(total=total, unit="base", unit_scale=True, desc=description, disable=quiet)


class _PositionSums:
    """The sums of a `LengthScore` as they grow."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.edges = position_edges(length)
        self.nats = np.zeros(len(self.edges) - 1)
        self.bases = np.zeros(len(self.edges) - 1, np.int64)

    def add(self, piece: Piece, is_scored: Bool[Tensor, " piece"] | None = None) -> None:
        """Add a piece; only where `is_scored`, if given, at any of its positions."""
        nats, is_base = piece.nats, piece.is_base
        if is_scored is not None:
            is_base = is_base & is_scored.to(is_base.device)
            nats = torch.where(is_base, nats, 0.0)
        first = int(np.searchsorted(self.edges, piece.start, "right")) - 1
        end = int(np.searchsorted(self.edges, piece.start + nats.shape[1], "left"))
        starts = np.maximum(self.edges[first:end] - piece.start, 0)
        self.nats[first:end] += np.add.reduceat(nats.double().sum(0).cpu().numpy(), starts)
        self.bases[first:end] += np.add.reduceat(is_base.sum(0).cpu().numpy(), starts)

    def result(self, what: str) -> LengthScore:
        """The finished score.

        Raises:
            ValueError: if nothing was predicted, beginning with `what`.
        """
        if not self.bases.sum():
            raise ValueError(f"{what} no A, C, G or T to predict")
        return LengthScore(self.length, self.nats, self.bases)
