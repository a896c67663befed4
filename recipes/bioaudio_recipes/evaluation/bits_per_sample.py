"""Bits per sample of a network over waveforms on a held-out split, beside counts of the same codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from bioaudio_data.audio import AudioWindows

from bioaudio_mamba import LanguageModel, count_parameters
from bioaudio_recipes.counting import CodeCounts
from bioaudio_recipes.pretrain.validation import evenly
from bioaudio_recipes.pretrain.waveform_data import WaveformCorpus
from bioaudio_recipes.run_folder import RunFolder, device_name, now, write_json
from bioaudio_recipes.training.memory import MemoryPlan

COUNTED = 2**24
"""Samples of a split that are counted, at most."""


@dataclass(frozen=True)
class LengthBits:
    """What was measured on windows of one length."""

    length: int
    split: str
    samples: int
    """Predicted samples."""
    bits: float
    """Bits per sample of the network."""
    counted: float
    """Of the split, each sample predicted from the one before by counts of the training split."""
    entropy: float
    """Order-1 entropy of the split: its own counts, which have seen what they predict."""


@torch.no_grad()
def measure_bits(
    model: LanguageModel,
    corpus: WaveformCorpus,
    lengths: Sequence[int],
    max_samples: int,
    tokens_per_batch: int,
    split: str | None = None,
) -> list[LengthBits]:
    """Score windows spread evenly over a split.

    Args:
        model: on any device.
        corpus: the store, and its codes.
        lengths: of the windows.
        max_samples: read at each length.
        tokens_per_batch: in one forward pass.
        split: test if the store has one, else valid.
    """
    split = split or ("test" if len(corpus.store.of_split("test")) else "valid")
    device, objective = model.lm_head.weight.device, corpus.objective
    results = []
    for length in lengths:
        windows = corpus.held_out(length, split)
        chosen = evenly(len(windows), max_samples // length)
        rows, nats, samples = max(1, tokens_per_batch // length), 0.0, 0
        for first in range(0, len(chosen), rows):
            batch = objective.batch(windows.read(chosen[first : first + rows]))
            batch = type(batch)(*(part.to(device) for part in batch))
            sums = objective.sums(model, batch, MemoryPlan().chunk_length_of)
            nats, samples = nats + float(sums.nll), samples + int(sums.targets)
        here = _counts(windows, COUNTED)
        train = _counts(corpus.held_out(length, "train"), COUNTED)
        bits = nats / samples / math.log(2)
        results.append(LengthBits(length, split, samples, bits, train.bits_of(here), here.entropy()))
    return results


def write_bits(folder: RunFolder, results: Sequence[LengthBits], model: LanguageModel) -> None:
    """Write evaluation/bits_per_sample.json of a run: what was measured of its model."""
    content: dict[str, Any] = {"date": now(), "lengths": [asdict(result) for result in results]}
    content["model"] = {"parameters": count_parameters(model)}
    content["device"] = device_name(model.lm_head.weight.device)
    write_json(folder.evaluation / "bits_per_sample.json", content)


def _counts(windows: AudioWindows, most: int) -> CodeCounts:
    """Counts of pairs of codes in windows spread evenly."""
    counts = CodeCounts(windows.quantiser.codes)
    for index in evenly(len(windows), most // windows.length):
        codes, mask, _ = windows.read([index])
        counts.add(codes[mask])
    return counts
