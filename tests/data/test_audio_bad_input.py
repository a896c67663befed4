"""Bad sound ends in one line that names the file and exit code 2, or is left out and listed if asked."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from bioaudio_data.audio import WaveformStore
from bioaudio_recipes.cli import main
from data.audio_files import RATE, tone, write

SECOND = tone(1.0)
WITH_NAN = np.where(np.arange(RATE) == 77, np.nan, SECOND).astype(np.float32)
WITH_INFINITY = np.where(np.arange(RATE) == 5000, np.inf, SECOND).astype(np.float32)


class Bad(NamedTuple):
    """How a bad file is made from a good one, and what the line about it must say after the file's path."""

    says: str
    name: str = "bad.wav"
    samples: np.ndarray = SECOND
    subtype: str | None = None
    cut: int | None = None
    """Bytes of the file that are kept; from its end if negative."""


BAD = {
    "empty": Bad(" is empty", cut=0),
    "no samples": Bad(" holds no samples", samples=SECOND[:0]),
    "wav cut": Bad(" is cut short: 15,000 of 16,000 bytes of sound are missing", cut=1044),
    "wav cut by a byte": Bad(" is cut short: 1 of 16,000 bytes of sound are missing", cut=-1),
    "wav cut in its header": Bad(" is cut short: it ends before its sound begins", cut=30),
    "flac cut": Bad(" is damaged: ", "bad.flac", cut=-1000),
    "flac cut in its header": Bad(" cannot be read as audio: ", "bad.flac", cut=20),
    "ogg cut": Bad(" is cut short: its last Ogg page is missing", "bad.ogg", cut=-1),
    "mp3 cut": Bad(" is cut short: ", "bad.mp3", cut=2000),
    "NaN": Bad(" has NaN or infinity at sample 77", samples=WITH_NAN, subtype="FLOAT"),
    "infinity": Bad(" has NaN or infinity at sample 5,000", samples=WITH_INFINITY, subtype="DOUBLE"),
    "silent": Bad(" is silent: every sample is the same", samples=np.zeros(99, np.float32)),
    "silent but for a constant": Bad(
        " is silent: every sample is the same", samples=np.full(99, 0.25, np.float32)
    ),
}


def make_bad(folder: Path, bad: Bad) -> Path:
    path = write(folder / bad.name, bad.samples, subtype=bad.subtype)
    if bad.cut is not None:
        path.write_bytes(path.read_bytes()[: bad.cut])
    return path


def refusal(capsys: pytest.CaptureFixture[str], *arguments: Path | str) -> str:
    """The line that `bioaudio` prints on stderr as it exits with code 2."""
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    assert exit_.value.code == 2
    assert output.out == ""
    assert output.err.count("\n") == 1
    return output.err.removeprefix("bioaudio: error: ").rstrip("\n")


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_or_left_out(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    write(folder / "a.wav")
    bad = make_bad(folder, BAD[case])
    write(folder / "c.wav", tone(0.2))
    arguments = ["prepare-audio", folder, "--out", tmp_path / "store", "--split.fractions", "[1, 0, 0]"]
    arguments += ["--sample-rate", str(RATE), "--workers", "1"]
    line = refusal(capsys, *arguments)
    assert line.startswith(f"{bad}{BAD[case].says}")
    assert line.endswith("; to leave bad files out: --skip-bad")
    assert list(tmp_path.iterdir()) == [folder]
    main([*map(str, arguments), "--skip-bad"])
    store = WaveformStore.open(tmp_path / "store")
    assert [clip.name for clip in store.clips] == ["a.wav", "c.wav"]
    np.testing.assert_allclose(store.samples(1), tone(0.2), atol=1 / 32768)
    store.verify()
    (skipped,) = store.index.skipped
    assert (skipped.name, skipped.reason[:9]) == (bad.name, BAD[case].says[1:10])
    assert f"left out {bad.name}: {skipped.reason}" in capsys.readouterr().out


def test_a_wav_file_from_a_pipe_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "in" / "a.wav")
    whole = path.read_bytes()
    path.write_bytes(
        whole.replace(struct.pack("<4sI", b"data", 1600), struct.pack("<4sI", b"data", 0xFFFFFFFF))
    )
    main(
        [
            "prepare-audio",
            str(tmp_path / "in"),
            "--out",
            str(tmp_path / "store"),
            "--split.fractions",
            "[1, 0, 0]",
        ]
    )
    assert WaveformStore.open(tmp_path / "store").index.samples == 1600


def test_files_of_other_kinds_are_refused_or_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    write(folder / "a.WAV")
    for name in ("README.md", "LICENSE", "list.txt", ".hidden.xyz", "_noise_/x.mid"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no sound")
    arguments = ["prepare-audio", folder, "--out", tmp_path / "store", "--split.fractions", "[1, 0, 0]"]
    main(list(map(str, arguments)))
    capsys.readouterr()
    (folder / "b.m4a").write_text("no sound")
    assert refusal(capsys, *arguments, "--overwrite").startswith(
        f"{folder / 'b.m4a'} has an extension that cannot be read (only .wav, .flac, .ogg, .mp3)"
    )
    main([*map(str, arguments), "--overwrite", "--skip-bad"])
    index = json.loads((tmp_path / "store" / "index.json").read_text())
    assert index["skipped"] == [
        ["b.m4a", "has an extension that cannot be read (only .wav, .flac, .ogg, .mp3)"]
    ]


def test_folders_without_good_sound_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "in", tmp_path / "store"
    assert "does not exist, or is no folder" in refusal(capsys, "prepare-audio", folder, "--out", out)
    folder.mkdir()
    assert f"{folder} holds no audio file" in refusal(capsys, "prepare-audio", folder, "--out", out)
    make_bad(folder, BAD["NaN"])
    ones = ["--split.fractions", "[1, 0, 0]", "--skip-bad"]
    line = refusal(capsys, "prepare-audio", folder, "--out", out, *ones)
    assert line == f"{folder} has no good audio file: all 1 are bad"
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sample-rate", "0"], "--sample-rate must be 1 Hz or more, got 0"),
        (["--sample-rate", "16001"], "cannot resample from 8000 to 16001 Hz: the greatest common divisor"),
        (["--workers", "0"], "--workers must be 1 or more, got 0"),
        (["--quantiser.bits", "40"], "quantiser.bits must be 2 to 16, got 40"),
        (["--split.fractions", "[0.5, 0.1, 0.1]"], "--split.fractions must be three shares that add up to 1"),
        (["--split.fractions", "[0.8, 0.1, 0.1]"], "split valid would have none of the 1 files"),
        (["--split.by", "speaker"], "--split.by speaker needs a speaker of every file, and a.wav has none"),
        (["--split.by", "lists"], "validation_list.txt: no such file; --split.by lists needs"),
        (["--tags.pattern", "("], "--tags.pattern '(' is no regular expression"),
        (["--tags.pattern", "a"], "--tags.pattern 'a' names no group"),
        (["--tags.pattern", r"(?P<label>\d)"], "a.wav has no label: its name does not match --tags.pattern"),
        (["--tags.folders"], "a.wav has no label: it lies in no folder"),
        (["--tags.table", "no.csv"], "no.csv: no such file (--tags.table)"),
        (["--layout", "fsdd", "--tags.folders"], "--layout fsdd sets tags and splits"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in" / "a.wav")
    ones = [] if any("split" in argument for argument in arguments) else ["--split.fractions", "[1, 0, 0]"]
    assert message in refusal(
        capsys, "prepare-audio", tmp_path / "in", "--out", tmp_path / "store", *ones, *arguments
    )
    assert not (tmp_path / "store").exists()


def test_existing_folders_are_not_overwritten_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in" / "a.wav")
    arguments = [
        "prepare-audio",
        tmp_path / "in",
        "--out",
        tmp_path / "store",
        "--split.fractions",
        "[1, 0, 0]",
    ]
    main(list(map(str, arguments)))
    capsys.readouterr()
    line = refusal(capsys, *arguments)
    assert line == f"{tmp_path / 'store'} exists already; to replace the waveform store there: --overwrite"
    line = refusal(capsys, *arguments[:3], tmp_path / "in", *arguments[4:], "--overwrite")
    assert "is not just a waveform store" in line


def test_damaged_stores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no waveform store"):
        WaveformStore.open(tmp_path)
    write(tmp_path / "in" / "a.wav")
    main(
        [
            "prepare-audio",
            str(tmp_path / "in"),
            "--out",
            str(tmp_path / "s"),
            "--split.fractions",
            "[1, 0, 0]",
        ]
    )
    index = tmp_path / "s" / "index.json"
    text = index.read_text()
    for old, new, message in [
        ('"bioaudio-audio"', '"bioaudio-genome"', "is not the index of a waveform store"),
        ('"version": 1', '"version": 2', "has format version 2; this release reads version 1"),
        ('"sha256":', '"sha":', "is damaged"),
        ("1600, 0,", "1601, 0,", "has 3,200 bytes where its index says 3,202"),
    ]:
        index.write_text(text.replace(old, new, 1))
        with pytest.raises(ValueError, match=message):
            WaveformStore.open(tmp_path / "s")


def test_a_missing_torchaudio_is_named_where_it_is_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchaudio.transforms", None)
    write(tmp_path / "in" / "a.wav")
    arguments = ["prepare-audio", tmp_path / "in", "--out", tmp_path / "store"]
    arguments += ["--split.fractions", "[1, 0, 0]", "--sample-rate"]
    line = refusal(capsys, *arguments, "7000")
    assert line.startswith(
        "resampling from 8000 to 7000 Hz needs torchaudio, which cannot be imported beside"
    )
    assert line.endswith("; install torchaudio from the package index that torch came from")
    main([*map(str, arguments), "8000"])
