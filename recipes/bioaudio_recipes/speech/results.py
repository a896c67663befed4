"""evaluation/speech.json: rows of scores by one classifier, that later evaluations add to."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bioaudio_recipes.run_folder import now, write_json
from bioaudio_recipes.speech.classifier import SpeechClassifier

KIND = "speech"
FILTERED = ", filtered"
"""Ends the name of a row of which clips were left out by likelihood."""
COLUMNS = {
    "clips": "clips",
    "fid": "FID",
    "is": "IS",
    "is_published": "IS as published",
    "mis": "mIS",
    "am": "AM",
    "label_accuracy": "label accuracy",
    "drawn": "drawn by",
}
"""Headings of the table, by key of a row."""
DRAWN = {"guidance": 1.0, "temperature": 1.0, "top_k": None, "top_p": None, "seed": 0}
"""Settings that a row keeps of how its clips were drawn, and their defaults in `bioaudio generate`."""
TRUSTED = 0.9
"""Share of the real test clips that a classifier should recognise, or its scores mean little."""


def check_same_classifier(path: Path, sha256: str) -> None:
    """Refuse to put scores of two classifiers into one file; a missing file is fine.

    Raises:
        ValueError: if the file has scores of another classifier, or is damaged.
    """
    if path.is_file() and (other := read_speech(path)["classifier"]["sha256"]) != sha256:
        raise ValueError(
            f"{path} holds scores of classifier {other[:12]}, these would be of {sha256[:12]}: they cannot "
            "be compared; give --classifier with the folder of that one, or another --out"
        )


def record(
    path: Path, classifier: SpeechClassifier, rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Write rows beside those that are there, real clips first, and take out older ones of the same names.

    Args:
        path: the JSON file, written atomically.
        classifier: whose scores these are.
        rows: as `scoring.row` makes them.
        about: what else to say of the evaluation that wrote last.

    Returns:
        the whole content.
    """
    check_same_classifier(path, classifier.sha256)
    older = read_speech(path)["rows"] if path.is_file() else []
    names = {row["name"] for row in rows} | {row["name"] + FILTERED for row in rows}
    kept = [row for row in older if row["name"] not in names]
    content = {
        "kind": KIND,
        "classifier": {
            "sha256": classifier.sha256,
            "classes": list(classifier.classes),
            "sample_rate": classifier.mel.sample_rate,
            **classifier.about,
        },
        "rows": sorted([*kept, *rows], key=lambda row: "folder" in row),
        "date": now(),
        "command": "bioaudio " + " ".join(sys.argv[1:]),
        **about,
    }
    write_json(path, content)
    return content


def read_speech(path: Path) -> dict[str, Any]:
    """The content of a speech.json.

    Raises:
        ValueError: if it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["kind"] != KIND or not isinstance(content["classifier"]["sha256"], str):
            raise ValueError("of another kind")
        for row in content["rows"]:
            for key in COLUMNS:
                cell(row, key)
            str(row["name"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the result of `bioaudio evaluate-speech`: {error}") from error
    return content


def cell(row: Mapping[str, Any], key: str) -> str:
    """A score as tables show it, `5.13 (5.01 to 5.25)`; empty where a row has none.

    Of how clips were drawn it is what differs from the defaults, `guidance 3, seed 1`.
    """
    entry = row.get(key)
    if key == "drawn":
        return ", ".join(
            f"{name.replace('_', '-')} {entry[name]:g}"
            for name, default in DRAWN.items()
            if entry and entry.get(name, default) != default
        )
    if entry is None:
        return ""
    if key == "clips":
        return f"{entry:,}"
    if key == "label_accuracy":
        return f"{entry['value']:.1%} ({entry['low']:.1%} to {entry['high']:.1%})"
    digits = 1 if abs(entry["value"]) >= 100 else 2 if key != "fid" else 3
    return " to ".join(
        [f"{entry['value']:.{digits}f} ({entry['low']:.{digits}f}", f"{entry['high']:.{digits}f})"]
    )


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those of `COLUMNS` that have something in a row."""
    return [key for key in COLUMNS if any(cell(row, key) for row in rows)]


def doubt(classifier: Mapping[str, Any]) -> str:
    """What to say of a classifier that recognises few real clips; nothing of a good one."""
    accuracy = classifier.get("accuracy", {})
    share = accuracy.get("test", accuracy.get("valid", 1.0))
    if share >= TRUSTED:
        return ""
    split = "test" if "test" in accuracy else "valid"
    return (
        f"the classifier recognises {share:.1%} of the real {split} clips, "
        f"fewer than {TRUSTED:.0%}: scores by it mean little; train another (a new --classifier folder) on "
        "more clips, or for more --training.epochs"
    )


def speech_table(content: Mapping[str, Any]) -> str:
    """The rows as text in columns, which classifier they are of, and a warning if that is a bad one."""
    keys = columns(content["rows"])
    lines = [["", *(COLUMNS[key] for key in keys)]]
    lines += [[row["name"], *(cell(row, key) for key in keys)] for row in content["rows"]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = [
        "  ".join(
            [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]
    accuracy = ", ".join(f"{s} {share:.1%}" for s, share in content["classifier"]["accuracy"].items())
    lines = [*table, f"classifier {content['classifier']['sha256'][:12]}: accuracy {accuracy}"]
    if warning := doubt(content["classifier"]):
        lines.append(f"warning: {warning}")
    return "\n".join(lines)
