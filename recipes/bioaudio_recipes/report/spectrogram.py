"""A clip as pictures: its waveform as an SVG path, its spectrogram as a PNG of our own making."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from bioaudio_recipes.report.markup import Markup, element

COLUMNS = 240
"""Of both pictures, at most."""
ROWS = 96
DECIBELS = 70.0
"""Below the loudest point, a spectrogram is black."""
WINDOW_SECONDS = 0.025
WAVE_HEIGHT = 48
_PLACES = (0.0, 0.35, 0.65, 0.85, 1.0)
_COLOURS = np.array([(8, 10, 26), (70, 28, 110), (196, 62, 78), (246, 160, 70), (253, 240, 190)], np.float64)
"""Colours from silence to the loudest point, light growing evenly."""


def waveform(samples: NDArray[np.float32], description: str) -> Markup:
    """An `svg` element: the range of the samples in each of `COLUMNS` stretches, full scale its height."""
    edges = np.linspace(0, len(samples), min(COLUMNS, len(samples)) + 1).astype(int)
    middle = WAVE_HEIGHT / 2
    lows = middle - middle * np.minimum.reduceat(samples, edges[:-1])
    highs = middle - middle * np.maximum.reduceat(samples, edges[:-1])
    path = "".join(
        f"M{x} {high:.1f}V{max(low, high + 0.6):.1f}"
        for x, (low, high) in enumerate(zip(lows, highs, strict=True))
    )
    return element(
        "svg",
        element("title", description),
        element("path", d=path, class_="wave"),
        viewBox=f"-1 0 {len(lows) + 1} {WAVE_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=description,
    )


def spectrogram(samples: NDArray[np.float32], sample_rate: int) -> bytes:
    """PNG of the log power of a clip: time to the right, 0 Hz at the bottom, half the rate at the top."""
    window = max(16, round(WINDOW_SECONDS * sample_rate))
    padded = np.pad(samples, (window // 2, window - window // 2))
    starts = np.linspace(0, len(samples), COLUMNS, endpoint=False).astype(int)
    frames = padded[starts[:, None] + np.arange(window)] * np.hanning(window)
    power = np.abs(np.fft.rfft(frames, 2 * ROWS if window < 2 * ROWS else window, axis=1)) ** 2
    edges = np.linspace(0, power.shape[1], ROWS + 1).astype(int)
    bands = np.maximum.reduceat(power, edges[:-1], axis=1)
    level = 10 * np.log10(bands / max(bands.max(), 1e-12) + 1e-12)
    shade = np.clip(1 + level / DECIBELS, 0, 1)
    return png(np.round(255 * shade.T[::-1]).astype(np.uint8), _palette())


def png(pixels: NDArray[np.uint8], palette: NDArray[np.uint8]) -> bytes:
    """A PNG file (ISO/IEC 15948) of palette indices (height, width) and colours (256, 3)."""
    height, width = pixels.shape
    rows = np.pad(pixels, ((0, 0), (1, 0)))  # each row begins with its filter: none
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def _palette() -> NDArray[np.uint8]:
    at = np.linspace(0, 1, 256)
    return np.round([np.interp(at, _PLACES, channel) for channel in _COLOURS.T]).T.astype(np.uint8)
