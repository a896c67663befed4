"""Windows cover their clips as the table says, and are pure functions of (seed, epoch, number)."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from bioaudio_data.audio import AudioWindows, Quantiser, TagConfig, WaveformStore, convert_audio, layout
from data.audio_files import RATE, all_codes, write

LENGTHS = {"0_ann_12": 250, "0_ann_10": 100, "1_ann_11": 30, "1_ann_0": 450, "1_ann_5": 20}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> WaveformStore:
    folder = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    for name, length in LENGTHS.items():
        write(folder / "in" / f"{name}.wav", rng.uniform(-0.5, 0.5, length).astype(np.float32))
    tags, split = layout("fsdd")
    return convert_audio(
        folder / "in", folder / "store", sample_rate=RATE, tags=tags, split=split, progress=False
    )


def test_tiles_hold_every_sample_once(store: WaveformStore) -> None:
    windows = AudioWindows(store, 100, split="train")
    batch = windows.read(np.arange(len(windows)))
    assert [clip.name for clip in store.clips if clip.split == "train"] == [
        *("0_ann_10.wav", "0_ann_12.wav", "1_ann_11.wav")
    ]
    assert batch.mask.sum(axis=1).tolist() == [100, 100, 100, 50, 30]
    assert batch.labels.tolist() == [0, 0, 0, 0, 1]
    codes = [windows.encode(int(clip), 0, store.clips[clip].length) for clip in store.of_split("train")]
    assert np.array_equal(batch.codes[batch.mask], np.concatenate(codes))
    assert (batch.codes[~batch.mask] == windows.quantiser.zero).all()


def test_windows_that_no_clip_fills_can_be_left_out(store: WaveformStore) -> None:
    windows = AudioWindows(store, 100, split="train", short="skip")
    assert len(windows) == 3
    assert windows.read([0, 1, 2]).mask.all()
    with pytest.raises(
        ValueError, match=r"no clip of split train of .* has 300 samples: the longest has 250"
    ):
        AudioWindows(store, 300, split="train", short="skip")


def test_random_windows_reach_every_start_evenly(store: WaveformStore) -> None:
    windows = AudioWindows(store, 100, split="test", placement="random")
    assert len(windows) == 4
    starts = np.stack([windows.locate(np.arange(4), seed=3, epoch=epoch)[1] for epoch in range(4000)])
    for number, share in enumerate(starts.T):
        first, end = 351 * number // 4, 351 * (number + 1) // 4
        counts = np.bincount(share - first, minlength=end - first)
        assert len(counts) == end - first
        assert counts.min() > 0
        assert counts.max() < 3 * counts.mean()
    short = AudioWindows(store, 100, split="valid", placement="random").locate([0], seed=1, epoch=5)
    assert [int(part[0]) for part in short[1:]] == [0, 20]


def test_a_window_depends_on_seed_epoch_and_number_alone(store: WaveformStore) -> None:
    windows = AudioWindows(store, 64, placement="random")
    everything = windows.read(np.arange(len(windows)), seed=1, epoch=2)
    order = np.random.default_rng(0).permutation(len(windows))
    for number in order:
        alone = windows.read([number], seed=1, epoch=2)
        assert np.array_equal(alone.codes[0], everything.codes[number])
    assert not np.array_equal(windows.read(order, seed=1, epoch=3).codes, everything.codes[order])
    assert not np.array_equal(windows.read(order, seed=2, epoch=2).codes, everything.codes[order])


def test_workers_read_the_same_windows(store: WaveformStore) -> None:
    windows = AudioWindows(store, 64, placement="random")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(all_codes, (windows,)) == all_codes(windows)


@pytest.mark.parametrize("scale", ["absolute", "file", "chunk"])
def test_the_scale_is_that_of_the_quantiser(store: WaveformStore, scale: str) -> None:
    quantiser = Quantiser(scale=scale)  # pyright: ignore[reportArgumentType]
    windows = AudioWindows(store, 100, split="test", quantiser=quantiser)
    batch = windows.read([1])
    samples = store.samples(int(windows.locate([1])[0][0]))
    span = (samples.min(), samples.max()) if scale == "file" else None
    assert np.array_equal(batch.codes[0], quantiser.encode(samples[100:200], span))
    if scale != "file":
        assert ((batch.codes.min(), batch.codes.max()) == (0, 255)) == (scale == "chunk")


def test_windows_of_clips_without_labels_say_so(tmp_path: Path) -> None:
    for i in range(20):
        write(tmp_path / "in" / f"{i}.wav")
    store = convert_audio(tmp_path / "in", tmp_path / "s", sample_rate=RATE, tags=TagConfig(), progress=False)
    assert AudioWindows(store, 10).read([0, 5]).labels.tolist() == [-1, -1]


def test_impossible_windows_are_refused(store: WaveformStore) -> None:
    windows = AudioWindows(store, 100)
    with pytest.raises(IndexError, match=r"window numbers must lie in 0 \.\. "):
        windows.read([len(windows)])
    with pytest.raises(ValueError, match="at least 1 sample, got length 0"):
        AudioWindows(store, 0)
    with pytest.raises(ValueError, match="has no clip in split 'dev'"):
        AudioWindows(store, 10, split="dev")
    with pytest.raises(ValueError, match="placement must be one of tile, random; got 'tiles'"):
        AudioWindows(store, 10, placement="tiles")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"samples 20 to 31 are not within clip 1_ann_11\.wav of 30"):
        store.samples([clip.name for clip in store.clips].index("1_ann_11.wav"), 20, 31)
    with pytest.raises(IndexError, match="clip 5 of 5"):
        store.samples(5)
