"""evaluation/classification.json: one entry a length, that later runs add to."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bioaudio_recipes.run_folder import now, write_json


def check_same_classes(path: Path, classes: Sequence[str]) -> None:
    """Refuse to mix the results of two tasks in one file; a missing file is fine.

    Raises:
        ValueError: if the file has results for other classes, or is damaged.
    """
    if path.is_file() and (others := _read(path)["classes"]) != list(classes):
        raise ValueError(
            f"{path} holds results for other classes ({', '.join(others)}); choose another --out"
        )


def record(
    path: Path, classes: Sequence[str], entries: Sequence[dict[str, Any]], about: dict[str, Any]
) -> None:
    """Write the entries, each with its `length`, beside those of other lengths; they replace older ones.

    Args:
        path: the JSON file, written atomically.
        classes: names, in the order of the rows and columns of the confusion matrices.
        entries: results by length.
        about: what else to say of the run that wrote last, as its device.
    """
    check_same_classes(path, classes)
    older = _read(path)["lengths"] if path.is_file() else []
    by_length = {entry["length"]: entry for entry in [*older, *entries]}
    content = {
        "kind": "classification",
        "classes": list(classes),
        "lengths": [by_length[length] for length in sorted(by_length)],
        "chance": 1 / len(classes),
        "date": now(),
        "command": "bioaudio " + " ".join(sys.argv[1:]),
    }
    write_json(path, content | about)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["kind"] == "classification" and isinstance(content["classes"], list):
            return content | {"lengths": [entry for entry in content["lengths"] if "length" in entry]}
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{path} is not the result of a classification; move it away or choose another --out")
