"""One audio file as a stream of mono blocks; every way in which it can be bad is an error that names it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from bioaudio_data.audio.container import check_whole

BLOCK = 1 << 18
"""Sample frames read at once."""
EXTENSIONS = (".wav", ".flac", ".ogg", ".mp3")
_WIDE = ("PCM_24", "PCM_32", "FLOAT", "DOUBLE")


class Header(NamedTuple):
    """What a file says about itself."""

    rate: int
    """Sample frames a second."""
    channels: int
    frames: int
    """Sample frames."""
    wide: bool
    """Whether its samples have more than 16 bits; those of lossy formats count as 16."""


def read_header(path: Path) -> Header:
    """Read a file's header, and see that its end is there.

    Raises:
        ValueError: if it is no audio file, cut short, or has no samples.
    """
    check_whole(path)
    try:
        info = soundfile.info(str(path))
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path} cannot be read as audio: {error.error_string}") from error
    if info.frames < 1:
        raise ValueError(f"{path} holds no samples")
    return Header(info.samplerate, info.channels, info.frames, info.subtype in _WIDE)


def mono_blocks(path: Path) -> Iterator[NDArray[np.float32]]:
    """Yield a file's samples, the mean of its channels, float32 (length,) in -1 .. 1, `BLOCK` frames at a
    time.

    Raises:
        ValueError: where the file cannot be decoded, ends early, or has a sample that is no finite number.
    """
    try:
        with soundfile.SoundFile(str(path)) as file:
            done = 0
            while len(frames := np.asarray(file.read(BLOCK, "float32", always_2d=True), np.float32)):
                if not np.isfinite(frames).all():
                    place = done + int(np.flatnonzero(~np.isfinite(frames).all(axis=1))[0])
                    raise ValueError(f"{path} has NaN or infinity at sample {place:,}")
                done += len(frames)
                yield frames[:, 0] if file.channels == 1 else frames.mean(axis=1, dtype=np.float32)
            promised = file.frames
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path} is damaged: {error.error_string}") from error
    if done < promised:
        raise ValueError(f"{path} is cut short: {done:,} of {promised:,} samples could be read")
