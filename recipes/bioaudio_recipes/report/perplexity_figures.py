"""Figures of held-out perplexity: against context length, and against distance from the window's start."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bioaudio_recipes.evaluation.results import length_name
from bioaudio_recipes.report.axis import bases_label
from bioaudio_recipes.report.figure import figure
from bioaudio_recipes.report.line_chart import LineChart, Rule, Series
from bioaudio_recipes.report.markup import Markup
from bioaudio_recipes.report.run_results import RunResults
from bioaudio_recipes.report.table import table

MOST_POINT_LABELS = 7
MOST_FLATTENED = 4
"""A curve keeps at least a fifth of its chart's height."""
LEAST_RANGE = 0.005
"""Of perplexity: smaller differences are not blown up."""

Scored = Sequence[tuple[str, Mapping[str, Any]]]
"""Results of `bioaudio evaluate`, each with the name of its run."""


def perplexity_figures(runs: Sequence[RunResults]) -> Iterator[Markup]:
    """Two figures for each genome and split that was evaluated, with all runs in one."""
    groups: dict[tuple[str, str], list[tuple[str, Mapping[str, Any]]]] = {}
    for run in runs:
        for result in run.perplexity:
            where = str(result.get("genome", "")), str(result.get("split", ""))
            groups.setdefault(where, []).append((run.name, result))
    for number, ((genome, split), scored) in enumerate(groups.items()):
        yield _by_length(scored, f"{split} split of {genome}", f"perplexity-{number}")
        if any(entry.get("by_position") for _, result in scored for entry in result["lengths"]):
            yield _by_position(scored, f"{split} split of {genome}", f"position-{number}")


def best_baseline(result: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The counting model with the lowest perplexity, if any was scored."""
    return min(result["baselines"], key=lambda entry: entry["perplexity"], default=None)


def _by_length(scored: Scored, where: str, identifier: str) -> Markup:
    is_alone = len(scored) == 1 and len(scored[0][1]["lengths"]) <= MOST_POINT_LABELS
    series = [
        Series(
            name=name,
            x=[entry["length"] for entry in result["lengths"]],
            y=[entry["perplexity"] for entry in result["lengths"]],
            color=color,
            has_markers=True,
            point_labels=[f"{entry['perplexity']:.3f}" for entry in result["lengths"]] if is_alone else (),
        )
        for color, (name, result) in enumerate(scored)
    ]
    entries = [entry for _, result in scored for entry in result["lengths"]]
    lengths = sorted({entry["length"] for entry in entries})
    caption = (
        f"Perplexity on the {where} against the length of the window, every length reading the same bases. "
        "A blind guess among four bases has 4."
    )
    for whole in sorted({entry["whole"] for entry in entries if entry.get("whole")}):
        caption += f" The last point reads whole {whole}s in one go, without windows."
    baselines = _baselines(scored)
    rules = _near(baselines, [entry["perplexity"] for entry in entries])
    if baselines:
        caption += (
            f" {'Dashed lines: counting' if rules else 'Counting'} models of the same training bases, both "
            "strands, tuned on the validation split and scored on the same bases as the model"
        )
        outside = [f"{e['name']} {e['perplexity']:.3f}" for e in baselines if e not in rules]
        caption += f"; outside the frame: {', '.join(outside)}." if outside else "."
    chart = LineChart(
        title=f"Perplexity by context length, {where}",
        description=caption,
        x_label="context length (bases; k = 1,024)",
        y_label="perplexity",
        series=series,
        rules=[_rule(entry, "perplexity") for entry in rules],
        x_log=True,
        x_ticks=lengths if len(lengths) <= 8 else (),
        x_text=bases_label,
    )
    rows = [
        [f"{name}, {length_name(entry)}", *_numbers(entry)]
        for name, result in scored
        for entry in result["lengths"]
    ]
    rows += [[entry["name"], *_numbers(entry)] for entry in baselines]
    header = ["model", "perplexity", "bits per base", "bases predicted"]
    return figure(chart, caption, table(f"Perplexity on the {where}", header, rows), identifier)


def _by_position(scored: Scored, where: str, identifier: str) -> Markup:
    curves = [(name, best_known_bins(result["lengths"])) for name, result in scored]
    series = [
        Series(
            name=name,
            x=[math.sqrt(bin_["first"] * bin_["last"]) for bin_ in bins],
            y=[bin_["bits_per_base"] for bin_ in bins],
            color=color,
        )
        for color, (name, bins) in enumerate(curves)
        if bins
    ]
    caption = (
        f"What a base of the {where} costs, by how many bases were read before it: where the curve still "
        "falls, more context still helps. Half an octave a point, each of the windows with most "
        "bases there; the last ones are of few stretches of DNA, and carry what those are like."
    )
    chart = LineChart(
        title=f"Bits per base by distance from the window's start, {where}",
        description=caption,
        x_label="bases read before (k = 1,024)",
        y_label="bits per base",
        series=series,
        rules=[_rule(entry, "bits_per_base") for entry in _baselines(scored)[-1:]],
        x_log=True,
        x_text=bases_label,
    )
    rows = [
        [
            f"{name}: {bin_['first']:,} to {bin_['last']:,}",
            f"{bin_['bits_per_base']:.4f}",
            f"{bin_.get('bases', 0):,}",
        ]
        for name, bins in curves
        for bin_ in bins
    ]
    header = ["bases read before", "bits per base", "bases predicted"]
    return figure(chart, caption, table(f"Bits per base by position, {where}", header, rows), identifier)


def best_known_bins(lengths: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """For each bin of distance the entry with most bases, of any window length, nearest first.

    A base that follows d others costs the same on average in short windows as in long ones, and short windows
    have more such bases: a single window of 2^20 has one base at each distance.
    """
    best: dict[int, Mapping[str, Any]] = {}
    for entry in lengths:
        for bin_ in entry.get("by_position", []):
            if bin_["bases"] > best.get(bin_["first"], {"bases": 0})["bases"]:
                best[bin_["first"]] = bin_
    return [best[first] for first in sorted(best)]


def _baselines(scored: Scored) -> list[Mapping[str, Any]]:
    """Those of the first run that has any, worst first: runs on one split have the same ones."""
    found = next((result["baselines"] for _, result in scored if result["baselines"]), [])
    return sorted(found, key=lambda entry: -entry["perplexity"])


def _near(baselines: Sequence[Mapping[str, Any]], curve: Sequence[float]) -> list[Mapping[str, Any]]:
    """Baselines that a chart has room for without flattening the curve, whose shape it is drawn for."""
    room = MOST_FLATTENED * max(max(curve) - min(curve), LEAST_RANGE)
    return [b for b in baselines if min(curve) - room <= b["perplexity"] <= max(curve) + room]


def _rule(entry: Mapping[str, Any], quantity: str) -> Rule:
    return Rule(label=f"{entry['name']}  {entry[quantity]:.3f}", y=entry[quantity])


def _numbers(entry: Mapping[str, Any]) -> list[str]:
    bases = f"{entry['bases']:,}" if "bases" in entry else ""
    return [f"{entry['perplexity']:.4f}", f"{entry['bits_per_base']:.4f}", bases]
