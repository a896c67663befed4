"""What the audio tests convert: small files of known samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from bioaudio_data.audio import AudioWindows, WaveformStore
from numpy.typing import NDArray

RATE = 8000


def tone(seconds: float = 0.1, frequency: float = 440.0, rate: int = RATE) -> NDArray[np.float32]:
    """A sine of amplitude 0.5: float32 (seconds * rate,)."""
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write(
    path: Path, samples: NDArray[np.float32] | None = None, rate: int = RATE, subtype: str | None = None
) -> Path:
    """Write samples, (length,) or (length, channels), in the format of the ending; a tone if None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(rate=rate) if samples is None else samples, rate, subtype)
    return path


def contents(store: WaveformStore) -> dict[str, NDArray[np.float32]]:
    """The samples of every clip by name."""
    return {clip.name: store.samples(i) for i, clip in enumerate(store.clips)}


def all_codes(windows: AudioWindows) -> bytes:
    """The codes of all windows; here, because another process finds this module wherever the package lies."""
    return windows.read(np.arange(len(windows)), seed=1).codes.tobytes()
