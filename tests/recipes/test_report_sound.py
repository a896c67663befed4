"""The report of a run over waveforms: clips to listen to inside the page, and what was measured of them."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from bioaudio_data.audio import WaveformStore
from bioaudio_recipes.cli import main, run
from bioaudio_recipes.report.page import NOTHING_FETCHED
from bioaudio_recipes.report.players import BUDGET_SECONDS, Clip, players
from bioaudio_recipes.report.spectrogram import COLUMNS, ROWS, png, spectrogram
from bioaudio_recipes.run_folder import RunFolder, write_json
from fake_run import write_fake_run
from tone_store import PITCHES, RATE, tone_store, write_notes

FETCHES = ("script", "link", "iframe", "object", "embed")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> WaveformStore:
    return tone_store(tmp_path_factory.mktemp("tones"), 6)


@pytest.fixture
def root(tmp_path: Path, store: WaveformStore) -> Path:
    """A run over waveforms as the commands leave it."""
    folder = RunFolder(tmp_path / "tones").create()
    folder.config.write_text(f"data:\n  store: {store.path}\n")
    folder.metrics.write_text(
        "step,train/bits_per_sample,train/length,train/tokens,train/tokens_per_second,val/bits_per_sample@2000\n"
        "0,,,,,8.1\n10,6.5,2000,20000,900,\n20,5.5,2000,40000,950,5.6\n"
    )
    entry = {"length": 2000, "split": "test", "samples": 720, "bits": 5.25, "counted": 5.5, "entropy": 5.125}
    bits = {"lengths": [entry, entry | {"length": 4000}], "model": {"parameters": 6_250_000}}
    write_json(folder.evaluation / "bits_per_sample.json", bits)
    write_json(folder.evaluation / "speech.json", speech())
    clips = write_notes(folder.root / "generated", 4)
    write_json(clips / "speed.json", {"samples_per_second": 16384.0, "batch": 16})
    with (clips / "clips.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "log_likelihood", "flagged"])
        writer.writerows(
            [f"{label}_{i}.wav", label, -123.4, int(i == 1)] for i in range(4) for label in PITCHES
        )
    return folder.root


def speech() -> dict[str, Any]:
    score = {"value": 3.25, "low": 3.0, "high": 3.5}
    metrics = dict.fromkeys(("fid", "is", "is_published", "mis", "am"), score)
    drawn = {"guidance": 3.0, "temperature": 0.7, "top_k": None, "top_p": None, "seed": 0}
    share = {"label_accuracy": {"value": 0.875, "low": 0.8, "high": 0.93}}
    rows = [
        {"name": "test", "clips": 300, **metrics},
        {"name": "cold", "clips": 12, "flagged": 1, **metrics, "label_accuracy": score, "drawn": drawn},
        {"name": "generated", "clips": 12, "flagged": 1, **metrics, **share},
        {"name": "generated, filtered", "clips": 7, "flagged": 0, **metrics, "label_accuracy": score},
    ]
    classifier = {"sha256": "0123456789abcdef", "classes": ["a"], "accuracy": {"test": 0.993}}
    return {"kind": "speech", "classifier": classifier, "rows": rows}


def page_of(*roots: Path) -> str:
    run("report", [str(root) for root in roots])
    return RunFolder(roots[0]).report.read_text(encoding="utf-8")


def test_clips_are_inside_the_page_and_sound_as_the_files_do(root: Path) -> None:
    page = page_of(root)
    sources = re.findall(r'<audio [^>]*src="data:audio/flac;base64,([^"]+)"', page)
    assert len(sources) == 8 + 6, "8 generated, and the 6 real ones that the test split has"
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(sources[0])), dtype="float32")
    original, _ = soundfile.read(root / "generated" / "low_0.wav", dtype="float32")
    assert rate == RATE
    assert np.array_equal(samples, original)
    assert page.count("flagged as gone wrong") == 3


def test_page_fetches_nothing(root: Path) -> None:
    page = page_of(root)
    assert not [tag for tag in FETCHES if f"<{tag}" in page]
    assert all(source.startswith("data:") for source in re.findall(r' src="([^"]{0,20})', page))
    assert "default-src &#x27;none&#x27;" in page
    assert "img-src data:; media-src data:" in page
    assert not re.search(r"https?:|@import|url\((?!#)", page)


def test_page_says_what_was_measured(root: Path) -> None:
    page = page_of(root)
    for text in (
        "bits per sample",
        "16.4 k",
        "samples generated per second (batch 16)",
        "<strong>87.5%</strong><span>generated clips recognised as their label",
        "0123456789ab",
        "IS as published",
        ">drawn by</th>",
        "<td>guidance 3, temperature 0.7</td>",
        "3.000 to 3.500",
        "samples per second in training",
        "windows of 2,000",
        "in windows of 4,000; order-1 entropy 5.125",
        "<strong>6.25 M</strong><span>parameters</span>",
    ):
        assert text in page, text
    assert "bases" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)


def test_page_warns_of_a_bad_classifier(root: Path) -> None:
    assert "Warning" not in page_of(root)
    content = speech()
    content["classifier"]["accuracy"] = {"test": 0.6}
    write_json(root / "evaluation" / "speech.json", content)
    assert "<p>Warning: the classifier recognises 60.0% of the real test clips" in page_of(root)


def test_lengths_of_classified_clips_are_samples(root: Path) -> None:
    entry = {"accuracy": 0.5, "accuracy_95": [0.4, 0.6], "windows": 4, "confusion": [[1, 1], [1, 1]]}
    lengths = [entry | {"length": length} for length in (8000, 16000)]
    content = {"classes": ["one", "two"], "chance": 0.5, "unit": "samples", "lengths": lengths}
    write_json(root / "evaluation" / "classification.json", content)
    (root / "finetune" / "length-16000").mkdir(parents=True)
    (root / "finetune" / "length-16000" / "metrics.csv").write_text("step,val/accuracy@16000\n5,0.5\n")
    page = page_of(root)
    for text in (
        "accuracy at 16,000 samples",
        "window length (samples)",
        "Windows of 8,000 samples",
        "while fine-tuning at 16,000 samples",
        "validation at 16,000",
    ):
        assert text in page, text
    assert "1,024" not in page


def test_parts_may_be_missing(root: Path) -> None:
    shutil.rmtree(root / "evaluation")
    (root / "config.yaml").unlink()
    page = page_of(root)
    assert page.count("<audio") == 8
    assert "Real</h3>" not in page


def test_pages_about_dna_stay_as_they_are(tmp_path: Path, root: Path) -> None:
    page = page_of(write_fake_run(tmp_path / "apes"))
    assert NOTHING_FETCHED.replace("'", "&#x27;") + '"' in page
    assert ".clips" not in page
    both = page_of(tmp_path / "apes", root)
    assert "bases per second" in both
    assert "samples per second" in both


def test_damaged_results_are_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("bits_per_sample.json", "speech.json"):
        path = root / "evaluation" / name
        before = path.read_text()
        path.write_text(json.dumps({"lengths": [{}]}))
        with pytest.raises(SystemExit, match="2"):
            main(["report", str(root)])
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{name} is not the result of `bioaudio" in line
        path.write_text(before)


def test_long_clips_are_cut_to_the_budget() -> None:
    wave = np.zeros(1000 * 100, np.float32)
    text = players("Long", [Clip("a", "", wave, 100), Clip("b", "", wave, 100)], "")
    assert f"the first {BUDGET_SECONDS / 2:.1f} s" in text


def test_spectrogram_shows_a_tone_at_its_height() -> None:
    rate, frequency = 8000, 1000.0
    wave = np.sin(2 * np.pi * frequency * np.arange(rate) / rate).astype(np.float32)
    width, height, pixels = unpacked(spectrogram(wave, rate))
    assert (width, height) == (COLUMNS, ROWS)
    brightest = pixels.astype(int).sum(1).argmax()
    assert brightest == pytest.approx(ROWS * (1 - frequency / (rate / 2)), abs=1.5)
    assert unpacked(spectrogram(np.zeros(50, np.float32), rate))[2].max() <= 255


def test_png_keeps_its_pixels() -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert np.array_equal(unpacked(png(pixels, np.zeros((256, 3), np.uint8)))[2], pixels)


def unpacked(content: bytes) -> tuple[int, int, np.ndarray]:
    """Width, height and palette indices of a PNG as `png` writes it, every checksum tested."""
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    at, chunks = 8, {}
    while at < len(content):
        size, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        chunks[kind] = content[at + 8 : at + 8 + size]
        assert zlib.crc32(kind + chunks[kind]) == int.from_bytes(
            content[at + 8 + size : at + 12 + size], "big"
        )
        at += 12 + size
    assert list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    width, height = (int.from_bytes(chunks[b"IHDR"][i : i + 4], "big") for i in (0, 4))
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()
    return width, height, rows[:, 1:]
