"""`bioaudio evaluate-speech`: one classifier a store, known by its hash; bad input is one line."""

from __future__ import annotations

import csv
import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from bioaudio_recipes import cli
from bioaudio_recipes.commands.generate import generate
from bioaudio_recipes.speech.classifier import load_classifier
from bioaudio_recipes.speech.clips import generated_clips, most_likely, real_clips
from bioaudio_recipes.speech.log_mel import LogMelConfig, fitted, log_mel, mel_filters
from bioaudio_recipes.speech.results import DRAWN, doubt
from bioaudio_recipes.speech.training import shifted
from tone_store import PITCHES, RATE, note, tone_store, write_notes

SMALL = ["--resamples", "3", "--device", "cpu"]
TRAINING = ["--training.epochs", "12", "--training.seconds", "0.12", "--training.batch_size", "8"]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, its classifier, clips with a table, and a run with their scores."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("speech")
    store = tone_store(root)
    clips = write_notes(root / "clips", 4)
    rows = [
        (f"{label}_{take}.wav", label, -float(take), int(take == 3)) for label in PITCHES for take in range(4)
    ]
    write_table(clips, rows)
    cli.run("evaluate-speech", [str(store.path), str(clips), "--out", str(root / "run"), *SMALL, *TRAINING])
    return root


def write_table(clips: Path, rows: list[tuple[Any, ...]]) -> None:
    with (clips / "clips.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "log_likelihood", "flagged"])
        writer.writerows(rows)


def content(run: Path) -> dict[str, Any]:
    return json.loads((run / "evaluation" / "speech.json").read_text())


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        cli.main(["evaluate-speech", *arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == cli.USAGE_ERROR
    return line


def test_planted_tones_are_recognised_and_every_row_is_there(scored: Path) -> None:
    found = content(scored / "run")
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == ["train", "test", "generated", "generated, filtered"]
    assert [row["clips"] for row in rows.values()] == [24, 6, 12, 8]
    assert rows["train"]["fid"]["value"] == pytest.approx(0, abs=1e-6)
    for row in rows.values():
        assert row["label_accuracy"]["value"] > 0.8
        assert 1 <= row["is"]["value"] <= len(PITCHES)
    assert rows["generated"]["flagged"] == 3
    assert rows["generated, filtered"]["flagged"] == 0, "the least likely clips were the flagged ones"
    assert found["classifier"]["accuracy"]["test"] == rows["test"]["label_accuracy"]["value"]


def test_classifier_is_trained_once_and_known_by_its_hash(scored: Path, tmp_path: Path) -> None:
    folder = scored / "store-classifier"
    before = (folder / "classifier.safetensors").stat().st_mtime_ns
    text = cli.run("evaluate-speech", [str(scored / "store"), "--out", str(tmp_path / "other"), *SMALL])
    assert (folder / "classifier.safetensors").stat().st_mtime_ns == before
    sha256 = load_classifier(folder, "cpu").sha256
    assert sha256[:12] in str(text)
    assert content(tmp_path / "other")["classifier"]["sha256"] == sha256
    for ours, theirs in zip(
        content(tmp_path / "other")["rows"], content(scored / "run")["rows"], strict=False
    ):
        assert ours["name"] == theirs["name"]
        assert ours["mis"]["value"] == pytest.approx(theirs["mis"]["value"], rel=1e-4)


def test_another_rate_and_loudness_change_no_label(scored: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for label in PITCHES:
        for take in range(2):
            doubled = np.repeat(note(label, take), 4) * 0.1
            soundfile.write(clips / f"{label}_{take}.flac", doubled, 4 * RATE)
    write_table(clips, [(f"{label}_{take}.flac", label, "", "") for label in PITCHES for take in range(2)])
    run = tmp_path / "run"
    cli.run(
        "evaluate-speech", [str(scored / "store"), str(clips), "--out", str(run), "--name", "ours", *SMALL]
    )
    rows = {row["name"]: row for row in content(run)["rows"]}
    assert list(rows) == ["train", "test", "ours"], "without likelihoods nothing is filtered"
    assert rows["ours"]["label_accuracy"]["value"] > 0.8


def test_clips_scored_again_come_last(scored: Path, tmp_path: Path) -> None:
    for name in ("one", "other", "one"):
        folders = [str(scored / "store"), str(scored / "clips"), "--out", str(tmp_path)]
        cli.run("evaluate-speech", [*folders, "--name", name, *SMALL])
    names = [row["name"] for row in content(tmp_path)["rows"]]
    assert names == ["train", "test", "other", "other, filtered", "one", "one, filtered"]


def test_a_row_says_how_its_clips_were_drawn(scored: Path, tmp_path: Path) -> None:
    clips = shutil.copytree(scored / "clips", tmp_path / "clips")
    settings = {"temperature": 0.9, "top_k": None, "top_p": 1.0, "guidance": 3.0, "seed": 0, "format": "wav"}
    (clips / "generation.json").write_text(json.dumps(settings))
    folders = [str(scored / "store"), str(clips), "--out", str(tmp_path)]
    text = str(cli.run("evaluate-speech", [*folders, *SMALL]))
    assert text.count("guidance 3, temperature 0.9, top-p 1\n") == 2
    kept = {name: settings[name] for name in ("guidance", "temperature", "top_k", "top_p", "seed")}
    assert [row.get("drawn") for row in content(tmp_path)["rows"]] == [None, None, kept, kept]
    del settings["guidance"]
    (clips / "generation.json").write_text(json.dumps(settings | {"temperature": 1.0, "top_p": None}))
    assert "drawn by" not in str(cli.run("evaluate-speech", [*folders, *SMALL])), "all as by default"
    assert content(tmp_path)["rows"][2]["drawn"] == DRAWN


def test_the_defaults_of_drawing_are_those_of_generate() -> None:
    parameters = inspect.signature(generate).parameters
    assert {name: parameters[name].default for name in DRAWN} == DRAWN


def test_scores_by_a_bad_classifier_come_with_a_warning(scored: Path, tmp_path: Path) -> None:
    store = [str(scored / "store"), "--out", str(tmp_path / "run"), *SMALL]
    assert "warning" not in str(cli.run("evaluate-speech", store))
    for accuracy, said in (
        ({"train": 1.0, "valid": 1.0, "test": 0.5}, "recognises 50.0% of the real test clips"),
        ({"train": 1.0, "valid": 0.8}, "recognises 80.0% of the real valid clips"),
        ({"train": 0.1, "valid": 0.1, "test": 0.9}, ""),
        ({}, ""),
    ):
        warning = doubt({"accuracy": accuracy})
        assert said in warning
        assert bool(warning) == bool(said)
    bad = ["--classifier", str(tmp_path / "bad"), "--training.epochs=1", "--training.learning_rate=1e-9"]
    text = str(
        cli.run("evaluate-speech", [str(scored / "store"), f"--out={tmp_path / 'other'}", *SMALL, *bad])
    )
    assert "warning: the classifier recognises" in text.splitlines()[-2]


def test_scores_of_two_classifiers_are_never_mixed(
    scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ["--classifier", str(tmp_path / "other"), "--training.seed", "1", "--training.epochs", "1"]
    line = refused([str(scored / "store"), "--out", str(scored / "run"), *SMALL, *other], capsys)
    assert "holds scores of classifier" in line
    assert "cannot be compared" in line
    line = refused([str(scored / "store"), "--out", str(tmp_path), *SMALL, "--training.seed", "1"], capsys)
    assert "has another training" in line


def test_changed_weights_are_refused(
    scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(scored / "store-classifier", tmp_path / "classifier")
    weights = folder / "classifier.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    arguments = [str(scored / "store"), "--out", str(tmp_path / "run"), "--classifier", str(folder)]
    assert "the weights were changed" in refused(arguments, capsys)


def test_clips_that_cannot_be_scored_are_one_line(
    scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def line(clips: Path) -> str:
        return refused([str(scored / "store"), str(clips), "--out", str(tmp_path / "run"), *SMALL], capsys)

    assert "does not exist" in line(tmp_path / "gone")
    for name in ("", "test", "mine, filtered"):
        store = [str(scored / "store"), str(scored / "clips"), "--out", str(tmp_path / "run")]
        assert "--name must not be empty" in refused([*store, f"--name={name}"], capsys)
    (empty := tmp_path / "empty").mkdir()
    assert "holds no audio file" in line(empty)
    soundfile.write(empty / "one.wav", note("low", 0), RATE)
    assert "holds 1 clip(s); 2 or more are needed" in line(empty)
    soundfile.write(empty / "two.wav", note("low", 1), RATE)
    write_table(empty, [("one.wav", "low", "-1", ""), ("three.wav", "low", "-1", "")])
    assert "three.wav, which is no file" in line(empty)
    write_table(empty, [("one.wav", "shrill", "-1", ""), ("two.wav", "low", "-1", "")])
    assert "has the label 'shrill' in clips.csv; the store has high, low, middle" in line(empty)
    write_table(empty, [("one.wav", "low", "likely", "")])
    assert "clips.csv, line 2: log_likelihood 'likely' is no number" in line(empty)
    assert not (tmp_path / "run").exists()


def test_store_without_labels_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tone_store(tmp_path, 5, labels=False)
    line = refused([str(store.path), "--out", str(tmp_path / "run"), *SMALL], capsys)
    assert "has clips without a label, as high_0.wav" in line


def test_published_filter_drops_both_ends(scored: Path) -> None:
    clips = generated_clips(scored / "clips")
    kept = most_likely(clips, 0.25, 0.25)
    assert {clips[i].log_likelihood for i in kept} == {-2.0, -1.0}
    assert kept == sorted(kept)


def test_real_clips_are_heard_through_the_quantiser(scored: Path) -> None:
    from bioaudio_data.audio import WaveformStore

    store = WaveformStore.open(scored / "store")
    first = next(iter(real_clips(store, "train")))
    assert len(np.unique(first)) <= store.index.quantiser.codes
    assert abs(float(np.abs(first).max()) - 1) < 0.05, "a quantiser per file stretches it"


def test_a_tone_lights_its_own_mel_band_whatever_its_loudness() -> None:
    mel = LogMelConfig(sample_rate=8000, seconds=0.5)
    filters = mel_filters(mel)
    for frequency in (300.0, 1000.0, 2500.0):
        wave = torch.sin(2 * torch.pi * frequency * torch.arange(4000) / 8000)
        loud, quiet = (log_mel(fitted(wave * gain, mel.samples)[None], mel) for gain in (0.9, 0.01))
        torch.testing.assert_close(loud, quiet, rtol=1e-4, atol=1e-3)
        band = int(loud[0].mean(1).argmax())
        assert (
            filters[band, round(frequency / 8000 * mel.fft)]
            == filters[:, round(frequency / 8000 * mel.fft)].max()
        )


def test_silence_stays_finite_and_clips_are_cut_or_filled() -> None:
    mel = LogMelConfig(sample_rate=1000, seconds=0.1)
    assert torch.isfinite(log_mel(fitted(torch.zeros(30), mel.samples)[None], mel)).all()
    assert fitted(torch.ones(30), 100).sum() == 30
    assert len(fitted(torch.ones(300), 100)) == 100


def test_shifted_clips_keep_their_energies(rng: torch.Generator) -> None:
    energies = torch.zeros(3, 2, 20)
    energies[:, :, 10] = 1.0
    moved = shifted(energies, -9.0, rng)
    assert moved.shape == energies.shape
    assert (moved == 1.0).sum() == 6
    assert (moved == -9.0).sum() <= 2 * 2 * 6
