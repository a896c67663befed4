"""What a run's folder holds, read for the report; every part may be missing, none may be damaged."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bioaudio_recipes.report.sound_results import SoundResults, read_sound
from bioaudio_recipes.run_folder import RunFolder


@dataclass(frozen=True)
class Curve:
    """A column of metrics.csv where it has values."""

    steps: list[float]
    values: list[float]

    def __bool__(self) -> bool:
        """Whether anything was logged."""
        return bool(self.steps)


@dataclass(frozen=True)
class Stage:
    """Consecutive steps with windows of one length; `start` is the last step of the stage before."""

    length: int
    start: float
    end: float


@dataclass(frozen=True)
class Metrics:
    """metrics.csv by column."""

    columns: Mapping[str, Curve]

    def __getitem__(self, column: str) -> Curve:
        """The curve of a column; an empty one where there is none."""
        return self.columns.get(column, Curve([], []))

    def at_lengths(self, prefix: str) -> dict[int, Curve]:
        """Curves of the columns `prefix@LENGTH`, shortest length first."""
        found = {
            int(name.rpartition("@")[2]): curve
            for name, curve in self.columns.items()
            if name.startswith(prefix + "@") and name.rpartition("@")[2].isdecimal() and curve
        }
        return dict(sorted(found.items()))

    @property
    def unit(self) -> str:
        """What was predicted, one by one: base or sample."""
        return "sample" if any("bits_per_sample" in name for name in self.columns) else "base"

    @property
    def stages(self) -> list[Stage]:
        """Stages of length warm-up, from the column train/length."""
        stages: list[Stage] = []
        before = 0.0
        curve = self["train/length"]
        for step, length in zip(curve.steps, curve.values, strict=True):
            if stages and stages[-1].length == int(length):
                stages[-1] = Stage(int(length), stages[-1].start, step)
            else:
                stages.append(Stage(int(length), before, step))
            before = step
        return stages


@dataclass(frozen=True)
class RunResults:
    """A run as the report needs it."""

    name: str
    environment: Mapping[str, Any]
    config: str | None
    """config.yaml, word for word."""
    metrics: Metrics
    perplexity: list[Mapping[str, Any]]
    """The content of each evaluation/perplexity*.json."""
    classification: Mapping[str, Any] | None
    """The content of evaluation/classification.json."""
    finetuning: Mapping[int, Metrics]
    """metrics.csv of each fine-tuning below the run, by its window length."""
    sound: SoundResults
    """Of a run over waveforms."""

    @property
    def units(self) -> str:
        """What the run reads: bases or samples."""
        if self.classification is not None and not self.metrics.columns:
            return str(self.classification.get("unit", "bases"))
        return f"{self.metrics.unit}s"


def read_run(root: Path) -> RunResults:
    """Read a run's folder.

    Raises:
        FileNotFoundError: if the folder is not a run's.
        ValueError: naming a file that is damaged.
    """
    folder = RunFolder(root).require()
    lengths = {
        int(path.name.removeprefix("length-")): path
        for path in (root / "finetune").glob("length-*")
        if path.name.removeprefix("length-").isdecimal()
    }
    classification = folder.evaluation / "classification.json"
    return RunResults(
        name=root.resolve().name,
        environment=_read_object(folder.environment),
        config=folder.config.read_text(encoding="utf-8") if folder.config.is_file() else None,
        metrics=read_metrics(folder.metrics),
        perplexity=[_read_perplexity(path) for path in sorted(folder.evaluation.glob("perplexity*.json"))],
        classification=_read_classification(classification) if classification.is_file() else None,
        sound=read_sound(root),
        finetuning={n: read_metrics(RunFolder(lengths[n]).metrics) for n in sorted(lengths)},
    )


def read_metrics(path: Path) -> Metrics:
    """The numbers of a metrics.csv; blank and non-finite cells are left out, and a missing file is empty.

    Raises:
        ValueError: naming the file and line of a cell that is no number.
    """
    if not path.is_file():
        return Metrics({})
    columns: dict[str, Curve] = {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        for row in reader:
            try:
                numbers = {name: float(cell) for name, cell in row.items() if name and cell}
                step = numbers.pop("step")
            except (KeyError, ValueError, TypeError) as error:
                raise ValueError(f"{path}, line {reader.line_num}: not a row of metrics ({error})") from error
            for name, value in numbers.items():
                if math.isfinite(value):
                    curve = columns.setdefault(name, Curve([], []))
                    curve.steps.append(step)
                    curve.values.append(value)
    return Metrics(columns)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content


def _read_perplexity(path: Path) -> dict[str, Any]:
    content = _read_object(path)
    try:
        for entry in [*content["lengths"], *content["baselines"]]:
            _require_numbers(entry, "perplexity", "bits_per_base")
        for entry in content["lengths"]:
            _require_numbers(entry, "length", "bases")
            for position in entry.get("by_position", []):
                _require_numbers(position, "first", "last", "bits_per_base", "bases")
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the result of `bioaudio evaluate`: {error}") from error
    return content


def _read_classification(path: Path) -> dict[str, Any]:
    content = _read_object(path)
    try:
        size = len(content["classes"])
        _require_numbers(content, "chance")
        for entry in content["lengths"]:
            _require_numbers(entry, "length", "accuracy", "windows")
            rows = entry["confusion"]
            if [len(row) for row in rows] != [size] * size or not all(
                isinstance(n, int) for r in rows for n in r
            ):
                raise TypeError(
                    f"the confusion matrix of length {entry['length']} is not {size} x {size} counts"
                )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the result of `bioaudio finetune`: {error}") from error
    return content


def _require_numbers(entry: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if not isinstance(entry[name], int | float) or not math.isfinite(entry[name]):
            raise TypeError(f"{name} is {entry[name]!r}, not a number")
