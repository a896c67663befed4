"""Telling a clip that has gone wrong: runaway noise, the usual end of a network that is lost, or silence.

A frame is silent if no sample is beyond 1 % of full scale from its middle; else it is heard. It is noise if
it is loud (standard deviation at least 0.1 of full scale) and either white (spectral flatness, the geometric
over the arithmetic mean of the power spectrum, at least 0.2: white noise has 0.56, a voice 0.001 to 0.05) or
cut off (a quarter of its samples at either end of the scale).

A clip is noise if frames of noise follow each other for 0.25 s, longer than a hiss in speech lasts, or if
they are more than two thirds of what is heard of it. It is silence if less than 0.1 s of it is heard (and
less than half of it). A word that silence follows is neither, however long the silence.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FRAME_SECONDS = 0.032
LOUD = 0.1
WHITE = 0.2
CUT_OFF = 0.25
EXTREME = 0.98
LONGEST_HISS = 0.25
"""Seconds."""
MOSTLY = 2 / 3
SILENT = 0.01
LEAST_HEARD = 0.1
"""Seconds: the shortest of 3,000 spoken digits (FSDD) is heard for 0.16."""


class NoiseDetector:
    """Listens to clips side by side, block by block, in constant memory.

    Args:
        clips: how many.
        sample_rate: samples a second.
    """

    def __init__(self, clips: int, sample_rate: int) -> None:
        self._frame = max(16, round(FRAME_SECONDS * sample_rate))
        self._per_second = sample_rate / self._frame
        self._longest = max(1, round(LONGEST_HISS * self._per_second))
        self._window = np.hanning(self._frame + 1)[:-1].astype(np.float32)
        self._rest = np.zeros((clips, 0), np.float32)
        self._running, self._noise, self._heard = np.zeros((3, clips), np.int64)
        self._frames = 0
        self._runaway = np.zeros(clips, np.bool_)
        self._low = np.full(clips, np.inf)
        self._high = np.full(clips, -np.inf)

    def add(self, samples: NDArray[np.float32]) -> None:
        """Listen to the next samples of every clip, (clips, samples)."""
        self._low = np.minimum(self._low, samples.min(axis=1, initial=np.inf))
        self._high = np.maximum(self._high, samples.max(axis=1, initial=-np.inf))
        sound = np.concatenate((self._rest, samples), axis=1)
        whole = sound.shape[1] // self._frame * self._frame
        self._rest = sound[:, whole:]
        for frame in np.split(sound[:, :whole], whole // self._frame, axis=1) if whole else ():
            noise, heard = self._is_noise(frame), np.ptp(frame, axis=1) > 2 * SILENT
            self._running = np.where(noise, self._running + 1, 0)
            self._runaway |= self._running >= self._longest
            self._noise += noise
            self._heard += heard
            self._frames += 1

    def reasons(self) -> list[str]:
        """For each clip `noise`, `silence`, or an empty string where it is neither."""
        silent = self._high - self._low <= 2 * SILENT
        silent |= self._heard < min(LEAST_HEARD * self._per_second, self._frames / 2)
        noise = self._runaway | ~silent & (self._noise > MOSTLY * self._heard)
        return np.where(noise, "noise", np.where(silent, "silence", "")).tolist()

    def _is_noise(self, frame: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Of one frame of every clip."""
        moving = frame - frame.mean(axis=1, keepdims=True)
        loud = moving.std(axis=1) >= LOUD
        power = np.abs(np.fft.rfft(moving * self._window)) ** 2
        power = power[:, 1:] + 1e-9
        white = np.exp(np.log(power).mean(axis=1)) / power.mean(axis=1) >= WHITE
        cut_off = (np.abs(frame) >= EXTREME).mean(axis=1) >= CUT_OFF
        return loud & (white | cut_off)
