"""Synthetic speech: spoken-digit-like clips made by a source and three formants, for demonstrations without
data.

Nothing here was recorded. A digit is a sequence of sounds, each with three formant frequencies (of an average
man, after Peterson and Barney 1952), a voiced and a noisy source; a speaker is a vocal tract length and a
pitch. The source, pulses at the pitch and white noise, goes through three two-pole resonators in cascade
(Klatt 1980), whose frequencies glide from sound to sound. It is speech-like enough to tell the digits apart
by ear and by classifier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

FRAME = 0.005
"""Seconds over which the resonators stand still."""
BANDWIDTHS = (80.0, 100.0, 150.0)
"""Of the formants, Hz."""
GLIDE = 0.03
"""Seconds over which one sound becomes the next."""
PEAK = 0.7


class Sound(NamedTuple):
    """One stretch of speech."""

    formants: tuple[float, float, float]
    """Hz."""
    seconds: float
    voice: float
    """Loudness of the pulses."""
    noise: float
    """Loudness of the noise."""


class Speaker(NamedTuple):
    """A synthetic voice."""

    name: str
    pitch: float
    """Hz at the beginning of a word."""
    tract: float
    """Factor of the formants: a shorter vocal tract has higher ones."""


SPEAKERS = (
    Speaker("synth_low", 105.0, 0.97),
    Speaker("synth_mid", 140.0, 1.05),
    Speaker("synth_high", 205.0, 1.17),
)

_EE, _IH, _EH = (270.0, 2290.0, 3010.0), (390.0, 1990.0, 2550.0), (530.0, 1840.0, 2480.0)
_AH, _AO, _UH = (640.0, 1190.0, 2390.0), (570.0, 840.0, 2410.0), (440.0, 1020.0, 2240.0)
_OO, _ER, _AA = (300.0, 870.0, 2240.0), (490.0, 1350.0, 1690.0), (730.0, 1090.0, 2440.0)
_N, _V, _S = (280.0, 1300.0, 2500.0), (320.0, 1100.0, 2300.0), (900.0, 2600.0, 4200.0)
_F, _TH, _T = (700.0, 1500.0, 3400.0), (600.0, 1600.0, 2900.0), (600.0, 2400.0, 3800.0)


def _vowel(formants: tuple[float, float, float], seconds: float = 0.12) -> Sound:
    return Sound(formants, seconds, 1.0, 0.01)


def _nasal(seconds: float = 0.07) -> Sound:
    return Sound(_N, seconds, 0.35, 0.0)


def _hiss(formants: tuple[float, float, float], seconds: float = 0.09, loudness: float = 0.5) -> Sound:
    return Sound(formants, seconds, 0.0, loudness)


_CLOSURE = Sound(_T, 0.04, 0.0, 0.0)

DIGITS: tuple[tuple[Sound, ...], ...] = (
    (Sound(_S, 0.08, 0.3, 0.3), _vowel(_IH), Sound(_ER, 0.07, 0.8, 0.0), _vowel(_AO), _vowel(_OO, 0.07)),
    (_vowel(_OO, 0.06), _vowel(_AH, 0.16), _nasal(0.11)),
    (_CLOSURE, _hiss(_T, 0.04), _vowel(_OO, 0.26)),
    (_hiss(_TH, 0.09, 0.25), Sound(_ER, 0.05, 0.8, 0.0), _vowel(_EE, 0.24)),
    (_hiss(_F, 0.09, 0.3), _vowel(_AO, 0.18), _vowel(_ER, 0.11)),
    (_hiss(_F, 0.09, 0.3), _vowel(_AA, 0.14), _vowel(_IH, 0.1), Sound(_V, 0.07, 0.3, 0.1)),
    (_hiss(_S, 0.12), _vowel(_IH, 0.1), _CLOSURE, _hiss(_T, 0.03), _hiss(_S, 0.13)),
    (_hiss(_S, 0.12), _vowel(_EH), Sound(_V, 0.06, 0.4, 0.1), _vowel(_UH, 0.06), _nasal()),
    (_vowel(_EH, 0.12), _vowel(_EE, 0.14), _CLOSURE, _hiss(_T, 0.05)),
    (_nasal(), _vowel(_AA, 0.12), _vowel(_EE, 0.12), _nasal(0.1)),
)
"""The sounds of zero to nine."""


def speak(
    sounds: Sequence[Sound], speaker: Speaker, sample_rate: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Waveform of a word, float32 (length,) with its loudest sample at 0.7, 0.3 to 0.6 s for a digit.

    Args:
        sounds: the word.
        speaker: the voice.
        sample_rate: samples a second; formants above 0.45 of it are left out.
        rng: of the small differences between two takes: tempo, pitch and formants within a few percent, and
            noise.
    """
    tempo, pitch, tract = (rng.uniform(1 - spread, 1 + spread) for spread in (0.12, 0.06, 0.03))
    frames = _frames(sounds, tempo)
    samples = round(FRAME * sample_rate)
    length = len(frames) * samples
    # The pitch falls by a fifth over the word, and trembles.
    seconds = np.arange(length) / sample_rate
    fall = 1.08 - 0.2 * np.arange(length) / length + 0.01 * np.sin(2 * np.pi * 5.5 * seconds)
    phase = np.cumsum(speaker.pitch * pitch * fall / sample_rate)
    pulses = np.diff(np.floor(phase), prepend=0.0)
    # A pulse of the glottis falls by 12 dB an octave, and the lips radiate 6 dB an octave: one pole is left.
    voice = np.asarray(lfilter([1.0], [1.0, -0.95], pulses - pulses.mean()))
    voice /= voice.std()
    loudness = np.repeat(frames[:, 3:], samples, axis=0)
    hiss = np.diff(rng.standard_normal(length), prepend=0.0)  # air hisses in the upper half of the spectrum
    source = loudness[:, 0] * voice + loudness[:, 1] * hiss
    wave = _resonate(source, frames[:, :3] * speaker.tract * tract, samples, sample_rate)
    edge = min(length // 4, round(0.01 * sample_rate))
    ramp = np.minimum(1.0, np.minimum(np.arange(length), np.arange(length)[::-1]) / edge)
    return (wave * ramp * (PEAK / np.abs(wave * ramp).max())).astype(np.float32)


def write_synthetic_speech(
    folder: Path, *, takes: int = 4, sample_rate: int = 16_000, seed: int = 0
) -> list[Path]:
    """Write synthetic spoken digits as 16-bit wav files `{digit}_{speaker}_{take}.wav`, the names of FSDD.

    Args:
        folder: where to; made if it does not exist.
        takes: clips of each digit by each of the three speakers.
        sample_rate: samples a second.
        seed: the same seed gives the same files.

    Returns:
        The files, in order of digit, speaker and take.
    """
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for digit, sounds in enumerate(DIGITS):
        for number, speaker in enumerate(SPEAKERS):
            for take in range(takes):
                rng = np.random.default_rng((seed, digit, number, take))
                paths.append(folder / f"{digit}_{speaker.name}_{take}.wav")
                soundfile.write(paths[-1], speak(sounds, speaker, sample_rate, rng), sample_rate, "PCM_16")
    return paths


def _frames(sounds: Sequence[Sound], tempo: float) -> NDArray[np.float64]:
    """Formants (3), voice and noise of every frame, (frames, 5), gliding from sound to sound."""
    steps = [max(1, round(sound.seconds * tempo / FRAME)) for sound in sounds]
    targets = np.array([[*sound.formants, sound.voice, sound.noise] for sound in sounds])
    track = np.repeat(targets, steps, axis=0)
    window = np.ones(round(GLIDE / FRAME)) / round(GLIDE / FRAME)
    left, right = (len(window) - 1) // 2, len(window) // 2
    padded = np.pad(track, ((left, right), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, window, mode="valid") for column in padded.T], axis=1)


def _resonate(
    source: NDArray[np.float64], formants: NDArray[np.float64], samples: int, sample_rate: int
) -> NDArray[np.float64]:
    """Send a source through the resonators in cascade; `formants` is (frames, 3), `samples` those of a
    frame."""
    for number, bandwidth in enumerate(BANDWIDTHS):
        state, parts = np.zeros(2), []
        for frame, frequency in enumerate(formants[:, number]):
            part = source[frame * samples : (frame + 1) * samples]
            if frequency < 0.45 * sample_rate:
                radius = math.exp(-math.pi * bandwidth / sample_rate)
                turn = 2 * radius * math.cos(2 * math.pi * frequency / sample_rate)
                # Gain 1 at zero frequency, as Klatt's resonators in cascade have it.
                part, state = lfilter([1 - turn + radius**2], [1.0, -turn, radius**2], part, zi=state)
            parts.append(part)
        source = np.concatenate(parts)
    return source
