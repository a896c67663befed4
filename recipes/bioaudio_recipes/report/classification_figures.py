"""Figures of a classifier: accuracy against length with its interval and chance, and confusion matrices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from bioaudio_recipes.report.axis import length_label
from bioaudio_recipes.report.confusion_chart import confusion_chart
from bioaudio_recipes.report.figure import figure
from bioaudio_recipes.report.line_chart import LineChart, Rule, Series
from bioaudio_recipes.report.markup import Markup
from bioaudio_recipes.report.table import table


def classification_figures(result: Mapping[str, Any], identifier: str) -> Iterator[Markup]:
    """Accuracy against length where there are several lengths, then a confusion matrix for each."""
    entries = result["lengths"]
    if len(entries) > 1:
        yield _accuracy(entries, result["chance"], _units(result), f"{identifier}-accuracy")
    for entry in entries:
        yield _confusion(result, entry, f"{identifier}-confusion-{entry['length']}")


def accuracy_text(entry: Mapping[str, Any]) -> str:
    """Accuracy in per cent with its interval, where one was computed."""
    low, high = interval(entry)
    return f"{entry['accuracy']:.1%}" + (f" ({low:.1%} to {high:.1%})" if low < high else "")


def interval(entry: Mapping[str, Any]) -> tuple[float, float]:
    """The 95 % interval of an accuracy; the accuracy itself twice where none was computed."""
    match entry.get("accuracy_95"):
        case [int() | float() as low, int() | float() as high]:
            return low, high
    return entry["accuracy"], entry["accuracy"]


def _units(result: Mapping[str, Any]) -> str:
    """What windows are made of."""
    return str(result.get("unit", "bases"))


def _accuracy(entries: list[Mapping[str, Any]], chance: float, units: str, identifier: str) -> Markup:
    intervals = [interval(entry) for entry in entries]
    has_intervals = any(low < high for low, high in intervals)
    series = Series(
        name="accuracy",
        x=[entry["length"] for entry in entries],
        y=[100 * entry["accuracy"] for entry in entries],
        low=[100 * low for low, _ in intervals] if has_intervals else (),
        high=[100 * high for _, high in intervals] if has_intervals else (),
        has_markers=True,
    )
    caption = "Accuracy on held-out windows against their length."
    if has_intervals:
        caption += f" Bars are 95 % Wilson intervals that count windows sharing no {units[:-1]}."
    chart = LineChart(
        title="Accuracy by window length",
        description=caption,
        x_label=f"window length ({units}{'; k = 1,024' if units == 'bases' else ''})",
        y_label="accuracy (%)",
        series=[series],
        rules=[Rule(label=f"chance {chance:.0%}", y=100 * chance)],
        x_log=True,
        x_ticks=[entry["length"] for entry in entries],
        x_text=partial(length_label, units=units),
        y_from_zero=True,
    )
    rows = [[f"{e['length']:,}", accuracy_text(e), f"{chance:.1%}", f"{e['windows']:,}"] for e in entries]
    numbers = table("Accuracy by length", ["length", "accuracy (95 %)", "chance", "windows"], rows)
    return figure(chart, caption, numbers, identifier)


def _confusion(result: Mapping[str, Any], entry: Mapping[str, Any], identifier: str) -> Markup:
    classes, counts = list(map(str, result["classes"])), entry["confusion"]
    length = length_label(entry["length"], _units(result))
    chart = confusion_chart(classes, counts, f"Confusion matrix, windows of {length}", identifier)
    caption = (
        f"Windows of {length} {_units(result)}: true class by row, predicted class by column; a cell has its "
        f"share of the row, and the count. Accuracy {accuracy_text(entry)}, chance {result['chance']:.1%}, "
        f"{entry['windows']:,} held-out windows."
    )
    rows = [
        [name, f"{row[i] / sum(row):.1%}" if sum(row) else "none tested", *(f"{count:,}" for count in row)]
        for i, (name, row) in enumerate(zip(classes, counts, strict=True))
    ]
    header = ["true class", "recall", *(f"as {name}" for name in classes)]
    return figure(chart, caption, table(f"Recall and counts, windows of {length}", header, rows), identifier)
