"""MIDI becomes mono sound without silence at its ends, and what is missing or damaged is said in one line."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from bioaudio_data.audio.render_midi import SOUNDFONTS, render_midi, trimmed
from fake_fluidsynth import RATE, install_fluidsynth


@pytest.fixture
def font(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return install_fluidsynth(tmp_path / "bin", monkeypatch)


def midi_folder(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"MThd")
    return folder


def test_files_become_mono_flac_without_silent_ends(tmp_path: Path, font: Path) -> None:
    folder = midi_folder(tmp_path / "midi", "10.mid", "2.mid", "more/1.MIDI", "notes.txt")
    made = render_midi(folder, tmp_path / "out", sample_rate=RATE, soundfont=font, workers=2)
    assert [str(file.path.relative_to(tmp_path / "out")) for file in made] == [
        "2.flac",
        "10.flac",
        "more/1.flac",
    ]
    assert sorted((tmp_path / "out").rglob("*.*")) == sorted(file.path for file in made)
    sound, rate = soundfile.read(made[0].path, dtype="int16", always_2d=True)
    assert (rate, sound.shape, made[0].seconds) == (RATE, (800, 1), 0.1)
    assert (np.abs(sound) == 2000).all()


def test_trimming_keeps_pauses_and_all_that_is_heard() -> None:
    music = np.concatenate((np.zeros(9), [1, 500, 10_000], np.zeros(50), [-11], np.zeros(99))).astype("i2")
    np.testing.assert_array_equal(trimmed(music), music[10:63])
    assert not trimmed(np.zeros(5, np.int16)).size


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ((), {}, "holds no MIDI file"),
        (("a.mid", "a.midi"), {}, "a.mid and a.midi would become the same flac"),
        (("a.mid", "damaged.mid"), {}, r"damaged.mid cannot be rendered .* Unexpected end of file"),
        (("silent.mid",), {}, "silent.mid is silent"),
        (("a.mid",), {"sample_rate": 4000}, "--sample-rate must be 8,000 to 96,000"),
        (("a.mid",), {"workers": 0}, "--workers must be 1 or more"),
        (("a.mid",), {"soundfont": Path("none.sf2")}, "--soundfont none.sf2 does not exist"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(
    names: tuple[str, ...], options: dict, message: str, tmp_path: Path, font: Path
) -> None:
    (tmp_path / "midi").mkdir()
    folder = midi_folder(tmp_path / "midi", *names)
    with pytest.raises((ValueError, OSError), match=message):
        render_midi(folder, tmp_path / "out", **{"sample_rate": RATE, "soundfont": font} | options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "midi"]


def test_without_fluidsynth_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="apt-get install fluidsynth timgm6mb-soundfont"):
        render_midi(midi_folder(tmp_path / "midi", "a.mid"), tmp_path / "out")


@pytest.mark.skipif(
    shutil.which("fluidsynth") is None or not any(path.is_file() for path in SOUNDFONTS),
    reason="needs FluidSynth and a SoundFont",
)
def test_fluidsynth_plays_a_note(tmp_path: Path) -> None:
    events = bytes((0, 0x90, 69, 100, 0x60, 0x80, 69, 0, 0, 0xFF, 0x2F, 0))  # A4 for a quarter of a bar
    track = b"MTrk" + struct.pack(">I", len(events)) + events
    (tmp_path / "a.mid").write_bytes(b"MThd" + struct.pack(">IHHH", 6, 0, 1, 96) + track)
    (made,) = render_midi(tmp_path, tmp_path / "out")
    sound, rate = soundfile.read(made.path)
    spectrum = np.abs(np.fft.rfft(sound[: rate // 2]))
    assert abs(2 * spectrum.argmax() - 440) <= 4
