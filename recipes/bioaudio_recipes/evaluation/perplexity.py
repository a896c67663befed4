"""Scores of a language model on windows of one length: in total, and by distance from the window's start."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from bioaudio_data.vocabulary import DNA
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from bioaudio_mamba import CausalLM
from bioaudio_recipes.pretrain.next_token_loss import unpack
from bioaudio_recipes.pretrain.packed_windows import PackedWindows

Precision = Literal["32-true", "bf16-mixed"]

BINS_PER_OCTAVE = 2


@dataclass(frozen=True)
class LengthScore:
    """What windows of one length cost, by position: entry d is of the bases that follow d others in a window.

    Entry 0 is empty: the first base of a window is not predicted. N and other non-bases count nowhere.
    """

    nats: np.ndarray
    """(length,) float64: sum of the negative log-likelihoods."""
    bases: np.ndarray
    """(length,) int64: number of predicted bases."""

    @property
    def length(self) -> int:
        """Bases of a window."""
        return len(self.nats)

    @property
    def bits_per_base(self) -> float:
        """Mean over all predicted bases."""
        return float(self.nats.sum() / self.bases.sum()) / math.log(2)

    @property
    def perplexity(self) -> float:
        """2 to the bits per base: 4 is a blind guess among four bases."""
        return 2.0**self.bits_per_base

    def by_position(self) -> list[dict[str, float]]:
        """Mean bits per base in bins of the number of bases read before, `BINS_PER_OCTAVE` to a doubling.

        Returns:
            One entry a bin that has bases: `first` and `last` number of bases read, `bits_per_base`, `bases`.
        """
        octaves = math.ceil(math.log2(self.length) * BINS_PER_OCTAVE) + 1
        edges = np.unique(np.ceil(2.0 ** (np.arange(octaves) / BINS_PER_OCTAVE)).astype(np.int64))
        edges = np.append(edges[edges < self.length], self.length)
        bins = []
        for first, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            if bases := int(self.bases[first:end].sum()):
                bits = float(self.nats[first:end].sum()) / bases / math.log(2)
                bins.append({"first": first, "last": end - 1, "bits_per_base": bits, "bases": bases})
        return bins


@torch.inference_mode()
def score_windows(
    model: CausalLM,
    windows: PackedWindows,
    *,
    tokens_per_batch: int = 2**16,
    precision: Precision = "32-true",
    progress: bool = False,
) -> LengthScore:
    """Predict every base of every window from those before it in the window.

    Windows longer than `tokens_per_batch` are read piece by piece with the state carried over, so the memory
    does not grow with the length. The result does not depend on `tokens_per_batch` beyond rounding.

    Args:
        model: on the device that is to do the work.
        windows: of one length.
        tokens_per_batch: tokens in one forward pass.
        precision: bf16-mixed runs matrix products in bfloat16.
        progress: whether to show a bar on stderr.

    Raises:
        ValueError: if the windows hold no A, C, G or T to predict, or tokens_per_batch is below 1.
    """
    if tokens_per_batch < 1:
        raise ValueError(f"--tokens_per_batch must be 1 or more, got {tokens_per_batch}")
    length = windows.length
    nats, bases = np.zeros(length), np.zeros(length, np.int64)
    batch_size = max(1, tokens_per_batch // length)
    was_training = model.training
    model.eval()
    quiet = None if progress else True
    for first in tqdm(range(0, len(windows), batch_size), desc=f"windows of {length}", disable=quiet):
        batch = torch.from_numpy(windows.read(np.arange(first, min(first + batch_size, len(windows)))))
        for start, piece_nats, piece_bases in _score_batch(model, batch, tokens_per_batch, precision):
            nats[start : start + len(piece_nats)] += piece_nats.cpu().numpy()
            bases[start : start + len(piece_bases)] += piece_bases.cpu().numpy()
    model.train(was_training)
    if not bases.sum():
        raise ValueError(f"the windows of {length} bases hold no A, C, G or T to predict")
    return LengthScore(nats, bases)


def _score_batch(
    model: CausalLM, packed: UInt8[Tensor, "batch length"], piece_length: int, precision: Precision
) -> Iterator[tuple[int, Float[Tensor, " piece"], Int64[Tensor, " piece"]]]:
    """Sums over the batch at each target position, piece by piece: (first position, nats, bases)."""
    device = model.lm_head.weight.device
    length = packed.shape[1]
    state = None
    for start in range(0, length - 1, piece_length):
        end = min(start + piece_length, length - 1)
        tokens = unpack(packed[:, start : end + 1].to(device))
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
            logits, state = model(tokens[:, :-1], state)
        targets = tokens[:, 1:]
        nll = functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
        is_base = (targets >= DNA.A) & (targets <= DNA.T)
        yield start + 1, torch.where(is_base, nll, 0.0).double().sum(0), is_base.sum(0)
