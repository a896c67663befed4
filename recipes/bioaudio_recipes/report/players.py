"""Clips to listen to: a player, a waveform and a spectrogram each, all of it inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
from numpy.typing import NDArray

from bioaudio_recipes.report.markup import Markup, element
from bioaudio_recipes.report.spectrogram import spectrogram, waveform

MOST_CLIPS = 8
"""Of a kind: generated, real."""
BUDGET_SECONDS = 120.0
"""Of all clips of a kind; longer ones are cut to an equal share."""


@dataclass(frozen=True)
class Clip:
    """Something to listen to."""

    title: str
    note: str
    samples: NDArray[np.float32]
    """(length,) in -1 .. 1."""
    sample_rate: int


def players(heading: str, clips: Sequence[Clip], caption: str) -> Markup:
    """A group of clips under a heading; nothing where there is none."""
    if not clips:
        return Markup("")
    most = BUDGET_SECONDS / len(clips)
    cards = element("ul", *(_card(clip, most) for clip in clips), class_="clips")
    return element("div", element("h3", heading), element("p", caption, class_="muted"), cards)


def _card(clip: Clip, most_seconds: float) -> Markup:
    heard = clip.samples[: max(1, int(most_seconds * clip.sample_rate))]
    return element("li", *_parts(clip, heard))


def _parts(clip: Clip, heard: NDArray[np.float32]) -> Iterator[Markup]:
    seconds = len(heard) / clip.sample_rate
    cut = "" if len(heard) == len(clip.samples) else f", the first {seconds:.1f} s"
    yield element("strong", clip.title)
    yield element("span", f"{clip.note}{cut}", class_="muted")
    yield waveform(heard, f"Waveform of {clip.title}, {seconds:.2f} s")
    picture = _data("image/png", spectrogram(heard, clip.sample_rate))
    top = clip.sample_rate / 2000
    yield element("img", src=picture, alt=f"Spectrogram of {clip.title}, 0 to {top:g} kHz", class_="spectrum")
    audio = _data("audio/flac", _flac(heard, clip.sample_rate))
    yield element(
        "audio", controls="controls", preload="metadata", src=audio, aria_label=f"Play {clip.title}"
    )


def _flac(samples: NDArray[np.float32], sample_rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, "PCM_16", format="FLAC")
    return file.getvalue()


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
