"""Speech to work with: a synthetic set with formants where they belong, and Speech Commands as published."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from bioaudio_data.audio import convert_audio, layout
from bioaudio_data.download import download
from bioaudio_data.samples.synthetic_speech import DIGITS, SPEAKERS, Sound, speak, write_synthetic_speech
from bioaudio_data.sources import SOURCES
from bioaudio_data.transfer import Patience
from bioaudio_recipes.cli import main
from data.audio_files import RATE, write
from data.flaky_server import Answer, flaky_server
from numpy.typing import NDArray


def spectrum(samples: NDArray[np.float32], rate: int) -> NDArray[np.float64]:
    """Mean log power spectrum, one value a hertz up to half the rate."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, rate // 25)[:: rate // 100]
    return np.log(np.square(np.abs(np.fft.rfft(frames * np.hanning(frames.shape[1]), rate))) + 1e-9).mean(0)


@pytest.mark.parametrize("formants", [(270.0, 2290.0, 3010.0), (730.0, 1090.0, 2440.0)])
def test_vowels_have_their_formants(formants: tuple[float, float, float]) -> None:
    whisper = Sound(formants, 0.5, 0.0, 1.0)
    power = spectrum(speak([whisper], SPEAKERS[0], 16_000, np.random.default_rng(0)), 16_000)
    for formant in np.array(formants) * SPEAKERS[0].tract:
        low, high = round(formant * 0.88), round(formant * 1.12)
        assert low + int(power[low:high].argmax()) == pytest.approx(formant, rel=0.08)


def test_voices_have_their_pitch() -> None:
    for speaker in SPEAKERS:
        samples = speak(
            [Sound((500.0, 1500.0, 2500.0), 0.4, 1.0, 0.0)], speaker, 16_000, np.random.default_rng(0)
        )
        middle = samples[1600:4800]
        similarity = np.correlate(middle, middle, "full")[len(middle) :]
        period = 50 + int(similarity[49:300].argmax())
        assert 16_000 / period == pytest.approx(speaker.pitch, rel=0.15)


def test_digits_sound_different_and_takes_alike() -> None:
    def voiceprint(digit: int, take: int) -> NDArray[np.float64]:
        samples = speak(DIGITS[digit], SPEAKERS[0], RATE, np.random.default_rng((digit, take)))
        thirds = np.array_split(samples, 3)
        return np.concatenate([spectrum(third, RATE)[100:4000].reshape(-1, 100).mean(1) for third in thirds])

    known = np.stack([voiceprint(digit, 0) for digit in range(10)])
    nearest = [int(np.abs(known - voiceprint(digit, 1)).mean(axis=1).argmin()) for digit in range(10)]
    assert nearest == list(range(10))


def test_synthetic_speech_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    first, again, other = (
        write_synthetic_speech(tmp_path / name, takes=1, sample_rate=RATE, seed=seed)
        for name, seed in [("a", 0), ("b", 0), ("c", 1)]
    )
    assert len(first) == 30
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert all(a.read_bytes() != b.read_bytes() for a, b in zip(first, other, strict=True))
    for path in first:
        samples, rate = soundfile.read(path)
        assert rate == RATE
        assert 0.25 < len(samples) / RATE < 0.65
        assert 0.69 < np.abs(samples).max() < 0.71


def test_synthetic_speech_is_laid_out_as_fsdd(tmp_path: Path) -> None:
    write_synthetic_speech(tmp_path / "in", takes=11, sample_rate=2000)
    tags, split = layout("fsdd")
    store = convert_audio(
        tmp_path / "in", tmp_path / "s", sample_rate=2000, tags=tags, split=split, progress=False
    )
    assert store.index.labels == tuple("0123456789")
    assert {clip.speaker for clip in store.clips} == {speaker.name for speaker in SPEAKERS}
    assert [len(store.of_split(name)) for name in ("train", "valid", "test")] == [30, 150, 150]


def speech_commands_archive(folder: Path) -> bytes:
    """A tar.gz laid out as Speech Commands: one take of each digit, all of the test but `zero` and `one`."""
    words = layout("sc09")[0].wanted_labels
    for word in words:
        write(folder / word / "0a7c2a8d_nohash_0.wav")
    (folder / "validation_list.txt").write_text("one/0a7c2a8d_nohash_0.wav\n")
    (folder / "testing_list.txt").write_text("".join(f"{word}/0a7c2a8d_nohash_0.wav\n" for word in words[2:]))
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        tar.add(folder, ".")
    return content.getvalue()


def test_speech_commands_comes_resumed_checked_and_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    body = speech_commands_archive(tmp_path / "in")
    small = replace(SOURCES["speech_commands"], sha256=hashlib.sha256(body).hexdigest())
    monkeypatch.setitem(SOURCES, "speech_commands", small)
    with flaky_server() as server:
        path = "/download.tensorflow.org/data/speech_commands_v0.02.tar.gz"
        server.answers[path] = [Answer(body=body, cut=300), Answer(body=body, status=503), Answer(body=body)]
        patience = Patience(attempts=3, pause=0.001, timeout=10)
        downloads = tmp_path / "downloads"
        download("speech_commands", downloads, mirror=server.address, patience=patience, progress=False)
        assert server.requests[-1] == (path, "bytes=300-")
    main(["download", "speech_commands", "--out", str(downloads), "--unpack-archives"])
    folder = downloads / "speech_commands_v0.02"
    main(
        [
            "prepare-audio",
            str(folder),
            "--out",
            str(tmp_path / "s"),
            "--layout",
            "sc09",
            "--sample-rate",
            "8000",
        ]
    )
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"it has sha256 .* instead of af14739ee7dc3114"):
        download("speech_commands", tmp_path / "other", mirror=downloads.as_uri(), progress=False)
