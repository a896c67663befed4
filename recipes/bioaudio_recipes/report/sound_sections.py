"""What the page says of a run over waveforms: clips to listen to, bits per sample, scores, sampling speed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bioaudio_recipes.report.axis import quantity
from bioaudio_recipes.report.figure import figure
from bioaudio_recipes.report.line_chart import LineChart, Series
from bioaudio_recipes.report.markup import Markup, element, joined
from bioaudio_recipes.report.players import players
from bioaudio_recipes.report.sound_results import SoundResults
from bioaudio_recipes.report.table import table
from bioaudio_recipes.speech.results import COLUMNS, FILTERED, cell, columns, doubt

BITS = {"bits": "network", "counted": "counts of pairs of codes", "entropy": "order-1 entropy"}
"""Names of the columns of bits_per_sample.json."""


def sound_tiles(sound: SoundResults) -> Iterator[tuple[str, str]]:
    """Headline numbers, each with its note."""
    if sound.bits and sound.bits["lengths"]:
        best = max(sound.bits["lengths"], key=lambda entry: entry["length"])
        split = best.get("split", "held-out")
        note = (
            f"{split} bits per sample in windows of {best['length']:,}; order-1 entropy {best['entropy']:.3f}"
        )
        yield f"{best['bits']:.3f}", note
    scored = [row for row in sound.speech["rows"] if "flagged" in row] if sound.speech else []
    whole = [row for row in scored if "label_accuracy" in row and not row["name"].endswith(FILTERED)]
    if whole:  # the last of the table
        share = whole[-1]["label_accuracy"]["value"]
        yield f"{share:.1%}", f"{whole[-1]['name']} clips recognised as their label"
    if sound.speed:
        batch = f" (batch {sound.speed['batch']})" if "batch" in sound.speed else ""
        yield quantity(sound.speed["samples_per_second"]), f"samples generated per second{batch}"


def sound_sections(sound: SoundResults, identifier: str) -> Iterator[tuple[str, Markup]]:
    """Titles and contents of the sections; none for a run over DNA."""
    if sound.generated:
        generated = players("Generated", sound.generated, "The first clips of the folder, not a selection.")
        real = players(
            "Real", sound.real, "Held-out recordings, through the quantiser of their store and back."
        )
        yield "Listen", joined([generated, real])
    if sound.bits and sound.bits["lengths"]:
        content = _bits(sound.bits, f"{identifier}-bits")
        yield "Held-out bits per sample", element("div", content, class_="figures")
    if sound.speech:
        yield "Scores of speech", _speech(sound.speech)


def _bits(result: Mapping[str, Any], identifier: str) -> Markup:
    entries = sorted(result["lengths"], key=lambda entry: entry["length"])
    lengths = [entry["length"] for entry in entries]
    split = entries[0].get("split", "held-out")
    rows = [[f"{e['length']:,}", *(f"{e[key]:.4f}" for key in BITS), f"{e['samples']:,}"] for e in entries]
    header = ["window", *BITS.values(), "samples predicted"]
    numbers = table(f"Bits per sample, {split} split", header, rows)
    if len(entries) == 1:
        return numbers
    caption = (
        f"Bits per sample on the {split} split against the length of the window. The counts predict each "
        "code from the one before it, counted on the training split; the order-1 entropy has counted what it "
        "predicts."
    )
    chart = LineChart(
        title="Bits per sample by window length",
        description=caption,
        x_label="window length (samples)",
        y_label="bits per sample",
        series=[
            Series(name=name, x=lengths, y=[entry[key] for entry in entries], color=color, has_markers=True)
            for color, (key, name) in enumerate(BITS.items())
        ],
        x_log=True,
        x_ticks=lengths if len(lengths) <= 8 else (),
        x_text=lambda length: f"{length:,.0f}",
    )
    return figure(chart, caption, numbers, identifier)


def _speech(result: Mapping[str, Any]) -> Markup:
    keys = columns(result["rows"])
    rows = [[row["name"], *(_two_lines(cell(row, key)) for key in keys)] for row in result["rows"]]
    classifier = result["classifier"]
    accuracy = ", ".join(f"{split} {share:.1%}" for split, share in classifier.get("accuracy", {}).items())
    note = (
        f"By classifier {classifier['sha256'][:12]} (accuracy: {accuracy}); scores of other classifiers "
        "cannot be compared with these. Rows train and test are real clips: what a perfect model reaches. "
        "Below each: its 95 % interval. FID and AM are better the lower, the others the higher."
    )
    scores = table(
        f"Scores by classifier {classifier['sha256'][:12]}",
        ["clips", *(COLUMNS[k] if k != "clips" else "number" for k in keys)],
        rows,
    )
    warning = doubt(classifier)
    warned = [element("p", f"Warning: {warning}.")] if warning else []
    return element("div", *warned, scores, element("p", note, class_="muted note"))


def _two_lines(text: str) -> str:
    """A score with its interval below, so that all columns fit side by side."""
    value, bracket, interval = text.partition(" (")
    if not bracket:
        return text
    return joined([value, element("br"), element("span", interval.removesuffix(")"), class_="interval")])
