"""A waveform store holds what its files held, at one rate, whatever their format, however many processes."""

from __future__ import annotations

import hashlib
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from bioaudio_data.audio import Quantiser, SplitConfig, WaveformStore, convert_audio, parallel
from bioaudio_data.audio.resample import resample, resampled_length
from bioaudio_recipes.cli import main
from data.audio_files import RATE, contents, tone, write

ALL_TRAIN = SplitConfig(fractions=(1.0, 0.0, 0.0))


def convert_all(folder: Path, out: Path, **options: object) -> WaveformStore:
    settings = {"sample_rate": RATE, "split": ALL_TRAIN, "progress": False, "workers": 1, **options}
    return convert_audio(folder, out, **settings)  # pyright: ignore[reportArgumentType]


def test_sixteen_bits_are_kept_to_the_bit(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    rng = np.random.default_rng(0)
    written = {f"a{i}.wav": rng.integers(-32768, 32768, 50 + i).astype(np.int16) for i in (10, 2, 1)}
    for name, samples in written.items():
        soundfile.write(source / name, samples, RATE)
    store = convert_all(tmp_path / "in", tmp_path / "store")
    assert store.index.sample_format == "int16"
    assert [clip.name for clip in store.clips] == ["a1.wav", "a2.wav", "a10.wav"], "natural order"
    for name, samples in contents(store).items():
        assert np.array_equal(samples * 32768, written[name])
    content = (store.path / "samples.i16").read_bytes()
    assert content == b"".join(written[f"a{i}.wav"].astype("<i2").tobytes() for i in (1, 2, 10))
    assert store.index.sha256 == hashlib.sha256(content).hexdigest()
    assert store.clips[0].sha256 == hashlib.sha256((tmp_path / "in" / "a1.wav").read_bytes()).hexdigest()
    assert sorted(path.name for path in store.path.iterdir()) == ["index.json", "samples.i16"]


def test_more_bits_are_kept_as_floats(tmp_path: Path) -> None:
    samples = tone() * np.float32(1e-3)
    write(tmp_path / "in" / "a.wav", samples, subtype="FLOAT")
    write(tmp_path / "in" / "b.wav")
    store = convert_all(tmp_path / "in", tmp_path / "store")
    assert store.index.sample_format == "float32"
    assert np.array_equal(store.samples(0), samples)
    small = convert_all(tmp_path / "in", tmp_path / "small", sample_format="int16")
    np.testing.assert_allclose(small.samples(0), samples, atol=0.5 / 32768 + 1e-9)


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
def test_every_format_is_read(tmp_path: Path, extension: str) -> None:
    write(tmp_path / "in" / f"a.{extension}", tone(0.5))
    (samples,) = contents(convert_all(tmp_path / "in", tmp_path / "store")).values()
    lossy = extension in ("ogg", "mp3")
    assert abs(len(samples) - RATE // 2) <= (RATE // 10 if lossy else 0)
    middle = slice(1000, 3000)
    error = samples[middle] - tone(0.5)[middle]
    assert np.abs(error).max() < (0.1 if lossy else 1 / 32768)


def test_channels_are_mixed_and_rates_resampled(tmp_path: Path) -> None:
    stereo = np.stack([tone(0.5, rate=44_100), np.zeros(22_050, np.float32)], axis=1)
    write(tmp_path / "in" / "a.wav", stereo, 44_100)
    write(tmp_path / "in" / "b.wav", tone(0.5))
    first, second = contents(convert_all(tmp_path / "in", tmp_path / "store")).values()
    assert len(first) == len(second) == RATE // 2
    assert np.abs(first - second / 2)[50:-50].max() < 1e-3


@pytest.mark.parametrize(
    ("source", "rate"), [(44_100, 16_000), (8000, 16_000), (48_000, 16_000), (22_050, 8000)]
)
@pytest.mark.parametrize("block", [7, 1000, 100_000])
def test_resampled_in_blocks_equals_resampled_in_one_piece(source: int, rate: int, block: int) -> None:
    samples = np.random.default_rng(0).standard_normal(3456).astype(np.float32)
    blocks = (samples[start : start + block] for start in range(0, len(samples), block))
    streamed = np.concatenate(list(resample(blocks, source, rate)))
    whole = torchaudio.functional.resample(torch.from_numpy(samples).double(), source, rate)
    assert len(streamed) == len(whole) == resampled_length(len(samples), source, rate)
    np.testing.assert_allclose(streamed, whole.numpy(), atol=1e-6)


def test_a_long_file_takes_constant_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bioaudio_data.audio.decode.BLOCK", 1 << 14)
    rng = np.random.default_rng(0)
    write(tmp_path / "in" / "long.wav", rng.standard_normal(2_000_000).astype(np.float32) * 0.1, 2 * RATE)
    convert_all(tmp_path / "in", tmp_path / "warm")
    tracemalloc.start()
    try:
        store = convert_all(tmp_path / "in", tmp_path / "store")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert store.index.samples == 1_000_000
    assert peak < 1_500_000, "the samples alone have 2 MB"


def test_processes_write_the_same_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(6):
        write(tmp_path / "in" / f"{i}.wav", tone(0.01 * (i + 1), 100.0 * (i + 1)))
    monkeypatch.setattr(parallel, "BATCH_FILES", 2)
    alone, shared = (convert_all(tmp_path / "in", tmp_path / f"{n}", workers=n) for n in (1, 2))
    assert alone.index == shared.index
    for store in (alone, shared):
        store.verify()


def test_a_store_is_pickled_as_a_path(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.wav")
    store = convert_all(tmp_path / "in", tmp_path / "store")
    message = pickle.dumps(store)
    assert len(message) < 500
    assert np.array_equal(pickle.loads(message).samples(0), store.samples(0))
    write(tmp_path / "in" / "a.wav", tone(0.2))
    convert_all(tmp_path / "in", tmp_path / "store", overwrite=True)
    with pytest.raises(ValueError, match="was overwritten while a job was using it"):
        pickle.loads(message)


def test_the_command_writes_a_store_that_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(20):
        write(tmp_path / "in" / f"{i}.wav", tone(frequency=100.0 + i))
    arguments = ["--out", tmp_path / "store", "--sample-rate", RATE, "--quantiser.scale", "chunk"]
    main(["prepare-audio", *map(str, [tmp_path / "in", *arguments])])
    main(["verify", str(tmp_path / "store")])
    first, second = capsys.readouterr().out.splitlines()
    assert "20 clips (18 train, 1 valid, 1 test), 2.0 s at 8,000 Hz as int16" in first
    assert "16,000 samples match their SHA-256" in second
    store = WaveformStore.open(tmp_path / "store")
    assert store.index.quantiser == Quantiser(scale="chunk")
    damaged = store.path / "samples.i16"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x77")
    with pytest.raises(SystemExit):
        main(["verify", str(store.path)])
    assert f"{damaged} is damaged: its SHA-256 is" in capsys.readouterr().err
