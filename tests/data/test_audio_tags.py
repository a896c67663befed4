"""Labels and splits of clips come from folders, names, lists or a table, and are the published ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from bioaudio_data.audio import SplitConfig, TagConfig, WaveformStore, convert_audio, layout
from bioaudio_data.audio.layouts import DIGITS
from bioaudio_data.audio.splits import natural_key, split_files
from bioaudio_data.audio.tags import Tags, read_tags
from data.audio_files import RATE, tone, write

FSDD, FSDD_SPLIT = layout("fsdd")


def converted(folder: Path, tags: TagConfig, split: SplitConfig) -> WaveformStore:
    out = folder.with_name("store")
    return convert_audio(folder, out, sample_rate=RATE, tags=tags, split=split, workers=1, progress=False)


def members(store: WaveformStore) -> dict[str, list[str]]:
    return {s: [clip.name for clip in store.clips if clip.split == s] for s in ("train", "valid", "test")}


def numbered(count: int) -> dict[str, Tags]:
    return {f"{i}.wav": Tags() for i in range(count)}


def test_natural_order_counts() -> None:
    names = ["b1", "a10", "a9", "a09", "10", "9", "a", ""]
    assert sorted(names, key=natural_key) == ["", "9", "10", "a", "a09", "a9", "a10", "b1"]


def test_files_are_split_in_order_at_fractions(tmp_path: Path) -> None:
    splits = split_files(tmp_path, numbered(50), SplitConfig())
    assert list(splits.values()) == ["train"] * 44 + ["valid"] * 3 + ["test"] * 3
    two = split_files(tmp_path, numbered(4), SplitConfig(fractions=(0.5, 0.0, 0.5)))
    assert list(two.values()) == ["train", "train", "test", "test"]


def test_fsdd_has_its_official_test_split(tmp_path: Path) -> None:
    for index in (0, 4, 5, 9, 10, 49):
        write(tmp_path / "in" / f"7_jackson_{index}.wav", tone(0.02, 100.0 + index))
    store = converted(tmp_path / "in", FSDD, FSDD_SPLIT)
    assert members(store) == {
        "train": ["7_jackson_10.wav", "7_jackson_49.wav"],
        "valid": ["7_jackson_5.wav", "7_jackson_9.wav"],
        "test": ["7_jackson_0.wav", "7_jackson_4.wav"],
    }
    assert {(clip.label, clip.speaker) for clip in store.clips} == {("7", "jackson")}
    assert store.labels.tolist() == [0] * 6


def test_sc09_is_the_digits_of_speech_commands_by_its_lists(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for word in (*DIGITS, "bed"):
        for take in range(3):
            write(folder / word / f"0a7c2a8d_nohash_{take}.wav", tone(0.02, 100.0 + take))
    write(folder / "_background_noise_" / "white_noise.wav")
    (folder / "validation_list.txt").write_text("zero/0a7c2a8d_nohash_1.wav\nbed/0a7c2a8d_nohash_1.wav\n")
    (folder / "testing_list.txt").write_text("nine/0a7c2a8d_nohash_2.wav\n")
    store = converted(folder, *layout("sc09"))
    assert store.index.labels == DIGITS
    assert members(store)["valid"] == ["zero/0a7c2a8d_nohash_1.wav"]
    assert members(store)["test"] == ["nine/0a7c2a8d_nohash_2.wav"]
    assert Counter(clip.label for clip in store.clips) == dict.fromkeys(DIGITS, 3)
    assert store.labels[[clip.label == "nine" for clip in store.clips]].tolist() == [9] * 3
    assert store.clips[0].speaker == "0a7c2a8d"
    tags, split = layout("speech_commands")
    everything = convert_audio(
        folder, tmp_path / "all", sample_rate=RATE, tags=tags, split=split, progress=False
    )
    assert len(everything.clips) == 33
    assert "bed" in everything.index.labels


def test_speakers_are_kept_together(tmp_path: Path) -> None:
    names = [f"{digit}_{who}_{i}.wav" for digit in "01" for who in ("ann", "bob", "cy") for i in (0, 1)]
    tags = read_tags(tmp_path, names, FSDD)
    assert all(isinstance(tag, Tags) for tag in tags.values())
    known = {name: tag for name, tag in tags.items() if isinstance(tag, Tags)}
    by_share = split_files(tmp_path, known, SplitConfig(by="speaker", fractions=(0.34, 0.33, 0.33)))
    assert {(name.split("_")[1], split) for name, split in by_share.items()} == {
        *[("ann", "train"), ("bob", "valid"), ("cy", "test")]
    }
    by_name = split_files(tmp_path, known, SplitConfig(by="speaker", test=("bob",)))
    assert {(name.split("_")[1], split) for name, split in by_name.items()} == {
        *[("ann", "train"), ("bob", "test"), ("cy", "train")]
    }


def test_a_table_names_everything(tmp_path: Path) -> None:
    for name in ("x/a.wav", "x/b.wav", "c.wav"):
        write(tmp_path / "in" / name)
    table = tmp_path / "in" / "table.csv"
    table.write_text(
        "file,label,split,speaker\nx/a.wav,dog,train,\nx/b.wav,cat,valid,tom\nc.wav,cat,test,tim\n"
    )
    store = converted(tmp_path / "in", TagConfig(table=table), SplitConfig(by="table"))
    assert [(clip.name, clip.label, clip.split, clip.speaker) for clip in store.clips] == [
        ("c.wav", "cat", "test", "tim"),
        ("x/a.wav", "dog", "train", None),
        ("x/b.wav", "cat", "valid", "tom"),
    ]
    assert store.index.labels == ("cat", "dog")
    assert store.labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("name,label\na.wav,x\n", "the columns must be file and any of label, speaker, split"),
        ("file,label\na.wav,x\nb.wav,x\n", r"line 3: .*b\.wav is no audio file of the folder"),
        ("file,label\na.wav,x\na.wav,x\n", r"line 3: a\.wav has a row already"),
        ("file,label\na.wav,x,y\n", "line 2: has not 2 columns"),
        ("file,label\na.wav,\xff\n", "is no CSV file in UTF-8"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, table: str, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(table.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        read_tags(tmp_path, ["a.wav"], TagConfig(table=path))


def test_missing_rows_and_labels_are_named(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("file,label,split\na.wav,x,tests\n")
    tags = read_tags(tmp_path, ["a.wav", "b.wav"], TagConfig(table=path))
    assert tags["b.wav"] == f"has no label: {path} has no row for it"
    assert isinstance(tags["a.wav"], Tags)
    with pytest.raises(ValueError, match="the table names split 'tests'; it must be one of"):
        split_files(tmp_path, {"a.wav": tags["a.wav"]}, SplitConfig(by="table"))
    with pytest.raises(ValueError, match="has no file with label 'y', which"):
        read_tags(tmp_path, ["a.wav"], TagConfig(table=path, keep_labels=("x", "y")))
    with pytest.raises(ValueError, match="both give labels; drop one"):
        TagConfig(folders=True, pattern="(?P<label>.)")
    with pytest.raises(ValueError, match=r"--tags\.keep_labels needs labels"):
        TagConfig(keep_labels=("x",))


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (
            SplitConfig(by="index", test=("7-9",)),
            "--split.test '7-9' is the value of no file; there are 0, 1",
        ),
        (SplitConfig(by="index", valid=(0,), test=("0-1",)), "index '0' is given to both"),
        (SplitConfig(by="speaker"), "would have none of the 1 values of speaker"),
        (SplitConfig(by="take"), "--split.by take needs a take of every file, and 0_ann_0.wav has none"),
    ],
)
def test_impossible_splits_are_refused(tmp_path: Path, split: SplitConfig, message: str) -> None:
    tags = read_tags(tmp_path, ["0_ann_0.wav", "0_ann_1.wav"], FSDD)
    with pytest.raises(ValueError, match=message):
        split_files(tmp_path, {name: tag for name, tag in tags.items() if isinstance(tag, Tags)}, split)


def test_lists_that_overlap_or_miss_are_refused(tmp_path: Path) -> None:
    (tmp_path / "validation_list.txt").write_text("0.wav\n")
    (tmp_path / "testing_list.txt").write_text("0.wav\n")
    with pytest.raises(ValueError, match=r"0\.wav is in both"):
        split_files(tmp_path, numbered(2), SplitConfig(by="lists"))
    (tmp_path / "testing_list.txt").write_text("x/0.wav\n")
    with pytest.raises(ValueError, match="lists none of the files"):
        split_files(tmp_path, numbered(2), SplitConfig(by="lists"))
