"""A stand-in for FluidSynth, which is no Python package: it plays one tone, whatever it is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 8000
SCRIPT = """#!/bin/sh
while [ "$1" != -F ]; do shift; done
out=$2; midi=$4
case $midi in
  *damaged*) cp "$(dirname "$0")/nothing.wav" "$out"; echo 'fluidsynth: error: Unexpected end of file' >&2;;
  *silent*) cp "$(dirname "$0")/silence.wav" "$out";;
  *) cp "$(dirname "$0")/tone.wav" "$out";;
esac
"""


def install_fluidsynth(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the stand-in on the path, and return a SoundFont for it. It plays half a second of silence on both
    channels, 800 samples 3,000 and 1,000 of which are heard, and silence again."""
    folder.mkdir()
    silence = np.zeros((RATE // 2, 2), np.int16)
    tone = np.tile(np.array([3000, 1000], np.int16), (800, 1)) * np.resize([1, -1], 800)[:, None].astype("i2")
    for name, sound in (
        ("nothing", silence[:0]),
        ("silence", silence),
        ("tone", np.concatenate((silence, tone, silence))),
    ):
        soundfile.write(folder / f"{name}.wav", sound, RATE)
    program = folder / "fluidsynth"
    program.write_text(SCRIPT)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    font = folder / "font.sf2"
    font.write_bytes(b"RIFF")
    return font
