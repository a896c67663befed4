"""A recording as the beginning of generated clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from bioaudio_data.audio.decode import mono_blocks, read_header
from bioaudio_data.audio.resample import resample
from numpy.typing import NDArray

from bioaudio_recipes.pretrain.starting_waveform_model import Sound


def read_prompt(path: Path, sound: Sound) -> NDArray[np.integer]:
    """Codes (length,) of an audio file, mixed to mono and resampled to the network's rate.

    A quantiser that scales per file or per chunk scales the recording as a whole.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or is empty.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--prompt {path}: no such file")
    blocks = resample(mono_blocks(path), read_header(path).rate, sound.sample_rate)
    samples = np.concatenate([*blocks])
    span = (samples.min(), samples.max()) if sound.quantiser.scale == "file" else None
    return sound.quantiser.encode(samples, span)
