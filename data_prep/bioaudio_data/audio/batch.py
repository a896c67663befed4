"""Converting a few audio files to one file of samples: the share of work that a process takes at a time."""

from __future__ import annotations

from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bioaudio_data.audio.decode import mono_blocks, read_header
from bioaudio_data.audio.index import INT16_SCALE, SAMPLE_TYPES, SampleFormat
from bioaudio_data.audio.resample import resample
from bioaudio_data.store_folder import sha256_of


class Batch(NamedTuple):
    """Files to convert, and how."""

    files: tuple[Path, ...]
    sample_rate: int
    sample_format: SampleFormat
    part: Path
    """Where the samples go, one file after the other."""


class Converted(NamedTuple):
    """What became of one file."""

    length: int
    """Samples written."""
    low: float
    high: float
    clipped: int
    """Samples that did not fit in int16."""
    sha256: str


Outcome = Converted | ValueError
"""What was written of a file, or the error that names a bad one."""


def convert_batch(batch: Batch) -> list[Outcome]:
    """Write the samples of a batch's files, mono and at the wanted rate, in constant memory.

    Returns:
        In the order of the files: what was written, or the error that names a bad file, of which nothing is
        written.
    """
    outcomes: list[Outcome] = []
    with batch.part.open("wb") as out:
        for path in batch.files:
            begin = out.tell()
            try:
                outcomes.append(_convert(path, batch, out))
            except ValueError as error:
                out.seek(begin)
                out.truncate()
                outcomes.append(error)
    return outcomes


def _convert(path: Path, batch: Batch, out: IO[bytes]) -> Converted:
    header = read_header(path)
    length = clipped = 0
    low, high = np.inf, -np.inf
    store = _to_int16 if batch.sample_format == "int16" else _to_float32
    for block in resample(mono_blocks(path), header.rate, batch.sample_rate):
        if not len(block):
            continue
        stored, beyond = store(block)
        out.write(stored.data)
        length += len(stored)
        clipped += beyond
        low, high = min(low, stored.min()), max(high, stored.max())
    if low == high:
        raise ValueError(f"{path} is silent: every sample is the same")
    scale = INT16_SCALE if batch.sample_format == "int16" else 1.0
    return Converted(length, float(low) / scale, float(high) / scale, clipped, sha256_of(path))


def _to_int16(samples: NDArray[np.float32]) -> tuple[NDArray[np.int16], int]:
    scaled = np.rint(samples * np.float32(INT16_SCALE))
    beyond = int(np.count_nonzero((scaled < -INT16_SCALE) | (scaled > INT16_SCALE - 1)))
    return np.clip(scaled, -INT16_SCALE, INT16_SCALE - 1).astype(SAMPLE_TYPES["int16"]), beyond


def _to_float32(samples: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
    return np.ascontiguousarray(samples, SAMPLE_TYPES["float32"]), 0
