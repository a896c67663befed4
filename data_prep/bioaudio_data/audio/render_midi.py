"""MIDI files to sound, by FluidSynth (a program of its own) and a SoundFont: music data without recordings.

Each file becomes one mono 16-bit flac. The same files, FluidSynth and SoundFont give the same samples. What
is cut from a longer performance may keep its place in time, with minutes of silence around it, and FluidSynth
adds some 20 s at the end: both ends are trimmed to what is heard.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray
from tqdm import tqdm

from bioaudio_data.atomic_folder import atomic_folder
from bioaudio_data.audio.splits import natural_key

SOUNDFONTS = (
    Path("/usr/share/sounds/sf2/TimGM6mb.sf2"),
    Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"),
)
"""Where Debian's packages timgm6mb-soundfont and fluid-soundfont-gm put theirs."""
INSTALL = "apt-get install fluidsynth timgm6mb-soundfont"
EXTENSIONS = (".mid", ".midi")
SAMPLE_RATES = (8_000, 96_000)
"""Hz; what FluidSynth can."""
GAIN = 0.6
"""Loud passages of a piano stay below half of full scale."""
HEARD = 1e-3
"""Of the loudest sample (-60 dB): below it, what begins and ends a piece is silence."""


class Rendered(NamedTuple):
    """A file of sound."""

    path: Path
    seconds: float


def render_midi(
    folder: Path,
    out: Path,
    *,
    sample_rate: int = 16_000,
    soundfont: Path | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> list[Rendered]:
    """Render every MIDI file of a folder and the folders below it, in parallel.

    Args:
        folder: the .mid and .midi files.
        out: folder of the flac files to make, named as their MIDI files; it appears only when it is complete.
        sample_rate: samples a second, 8,000 to 96,000.
        soundfont: the instruments; the first of `SOUNDFONTS` that is installed, if None.
        workers: processes of FluidSynth; one for each CPU core if None.
        progress: show a bar on stderr, if that is a terminal.

    Returns:
        The files made, in natural order.

    Raises:
        FileNotFoundError: if the folder, FluidSynth or the SoundFont is missing.
        FileExistsError: if `out` exists.
        ValueError: if there is no MIDI file, naming one that is damaged or silent, or for a rate outside the
            above.
    """
    lowest, highest = SAMPLE_RATES
    if not lowest <= sample_rate <= highest:
        raise ValueError(f"--sample-rate must be {lowest:,} to {highest:,} Hz, got {sample_rate}")
    if workers is not None and workers < 1:
        raise ValueError(f"--workers must be 1 or more, got {workers}")
    names = _find_midi(Path(folder))
    program, instruments = _find_fluidsynth(), _find_soundfont(soundfont)
    quiet = None if progress else True  # None: only on a terminal
    with atomic_folder(Path(out)) as made, ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        work = partial(_render, program, instruments, sample_rate, Path(folder), made)
        bar = tqdm(pool.map(work, names), total=len(names), unit=" files", desc="rendering", disable=quiet)
        seconds = list(bar)
    return [Rendered(_flac(Path(out), name), length) for name, length in zip(names, seconds, strict=True)]


def trimmed(samples: NDArray[np.int16]) -> NDArray[np.int16]:
    """Mono samples (length,) without the silence at both ends; none at all if all of it is silence."""
    loudness = np.abs(samples.astype(np.int32))
    heard = np.flatnonzero(loudness > HEARD * loudness.max(initial=0))
    return samples[heard[0] : heard[-1] + 1] if heard.size else samples[:0]


def _render(program: str, soundfont: Path, sample_rate: int, folder: Path, out: Path, name: str) -> float:
    """Make the flac of one MIDI file; returns its seconds."""
    midi, flac = folder / name, _flac(out, name)
    flac.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        wav = Path(scratch, "stereo.wav")
        options = ["-niq", "-g", str(GAIN), "-r", str(sample_rate), "-T", "wav", "-O", "s16", "-F", str(wav)]
        done = subprocess.run(
            [program, *options, str(soundfont), str(midi)], capture_output=True, text=True, check=False
        )
        # A damaged file ends with code 0 and an empty wav, a damaged SoundFont with another's sound.
        said = [line for line in done.stderr.splitlines() if "error:" in line]
        if done.returncode or said:
            reason = said[0] if said else f"ended with code {done.returncode} {done.stderr.strip()}"
            raise ValueError(f"{midi} cannot be rendered with {soundfont}: {reason}")
        stereo = soundfile.read(wav, dtype="int16", always_2d=True)[0]
    sound = trimmed(np.rint(stereo.mean(axis=1, dtype=np.float32)).astype(np.int16))
    if not sound.size:
        raise ValueError(f"{midi} is silent when rendered with {soundfont}; is it music?")
    soundfile.write(flac, sound, sample_rate, subtype="PCM_16")
    return len(sound) / sample_rate


def _flac(out: Path, name: str) -> Path:
    return (out / name).with_suffix(".flac")


def _find_midi(folder: Path) -> list[str]:
    """Paths below the folder, in natural order."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} does not exist, or is no folder; give the folder of the MIDI files"
        )
    names = [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS and path.is_file()
    ]
    if not names:
        raise ValueError(f"{folder} holds no MIDI file ({', '.join(EXTENSIONS)})")
    taken: dict[Path, str] = {}
    for name in sorted(names, key=natural_key):
        if (other := taken.setdefault(_flac(folder, name), name)) != name:
            raise ValueError(f"{folder}: {other} and {name} would become the same flac file; rename one")
    return list(taken.values())


def _find_fluidsynth() -> str:
    if (program := shutil.which("fluidsynth")) is None:
        raise FileNotFoundError(f"fluidsynth is not installed: {INSTALL}")
    return program


def _find_soundfont(wanted: Path | None) -> Path:
    if wanted is None:
        found = next((path for path in SOUNDFONTS if path.is_file()), None)
        if found is None:
            raise FileNotFoundError(f"no SoundFont is installed: {INSTALL}, or give one by --soundfont")
        return found
    if not wanted.is_file():
        raise FileNotFoundError(f"--soundfont {wanted} does not exist, or is no file")
    return wanted
