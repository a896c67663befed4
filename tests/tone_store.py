"""A tiny waveform store whose labels can be heard: tones, noisy, of three pitches and different lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from bioaudio_data.audio import Quantiser, SplitConfig, TagConfig, WaveformStore, convert_audio
from numpy.typing import NDArray

RATE = 1000
PITCHES = {"low": 60.0, "middle": 140.0, "high": 330.0}


def note(label: str, take: int) -> NDArray[np.float32]:
    """One take of a tone, 60 to 120 samples."""
    rng = np.random.default_rng((sorted(PITCHES).index(label), take))
    time = np.arange(rng.integers(60, 121)) / RATE
    wave = np.sin(2 * np.pi * (PITCHES[label] * time + rng.uniform())) + 0.1 * rng.standard_normal(len(time))
    return (0.4 * wave).astype(np.float32)


def write_notes(folder: Path, takes: int, rate: int = RATE) -> Path:
    """Files `LABEL_TAKE.wav`."""
    folder.mkdir(parents=True, exist_ok=True)
    for label in PITCHES:
        for take in range(takes):
            soundfile.write(folder / f"{label}_{take}.wav", note(label, take), rate)
    return folder


def tone_store(folder: Path, takes: int = 12, *, labels: bool = True) -> WaveformStore:
    """A store of them in `folder/store`: takes 0 and 1 for validation, 2 and 3 for the test."""
    pattern = r"(?P<label>[a-z]+)_(?P<take>\d+)" if labels else r"(?P<name>[a-z]+)_(?P<take>\d+)"
    return convert_audio(
        write_notes(folder / "notes", takes),
        folder / "store",
        sample_rate=RATE,
        tags=TagConfig(pattern=pattern),
        split=SplitConfig(by="take", valid=("0-1",), test=("2-3",)),
        quantiser=Quantiser(),
        workers=1,
        progress=False,
    )
