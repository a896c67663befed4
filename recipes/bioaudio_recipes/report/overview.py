"""The top of the page: headline numbers, and what was run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bioaudio_recipes.report.axis import bases_label, length_label, quantity
from bioaudio_recipes.report.classification_figures import interval
from bioaudio_recipes.report.markup import Markup, element
from bioaudio_recipes.report.perplexity_figures import best_baseline
from bioaudio_recipes.report.run_results import RunResults
from bioaudio_recipes.report.sound_sections import sound_tiles
from bioaudio_recipes.report.table import folded, pairs


def headline(run: RunResults) -> Markup:
    """The few numbers to remember, as tiles; empty where nothing was measured."""
    tiles = list(_tiles(run))
    return element("ul", *tiles, class_="tiles") if tiles else Markup("")


def what_was_run(run: RunResults) -> Markup:
    """Command, date, machine, versions, and the configuration folded away."""
    environment = run.environment
    packages = environment.get("packages")
    versions = packages if isinstance(packages, dict) else {}
    rows = [
        ("Command", str(environment.get("command", "unknown"))),
        ("Started", str(environment.get("started", "unknown"))),
        ("Device", str(environment.get("device", "unknown"))),
        ("Platform", f"{environment.get('platform', 'unknown')}, Python {environment.get('python', '?')}"),
        ("Packages", ", ".join(f"{name} {version}" for name, version in versions.items() if version)),
    ]
    for name, result in _evaluations(run):
        date, device = result.get("date", "unknown date"), result.get("device", "unknown device")
        rows.append((name, f"{result.get('command', 'unknown command')} ({date}, {device})"))
    config = (
        [folded("Configuration (config.yaml)", element("pre", run.config, tabindex=0))] if run.config else []
    )
    return element("div", pairs([row for row in rows if row[1]]), *config)


def _evaluations(run: RunResults) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for result in run.perplexity:
        yield "Evaluation", result
    if run.classification is not None:
        yield "Classifier", run.classification
    if run.sound.speech is not None:
        yield "Speech scores", run.sound.speech


def _tiles(run: RunResults) -> Iterator[Markup]:
    for result in run.perplexity:
        if result["lengths"]:
            longest = max(result["lengths"], key=lambda entry: entry["length"])
            note = f"{result.get('split', '')} perplexity at {bases_label(longest['length'])} bases"
            if baseline := best_baseline(result):
                note += f"; best counting model {baseline['perplexity']:.3f}"
            yield _tile(f"{longest['perplexity']:.3f}", note)
    for value, note in sound_tiles(run.sound):
        yield _tile(value, note)
    if run.classification is not None and run.classification["lengths"]:
        best = max(run.classification["lengths"], key=lambda entry: entry["length"])
        units = run.classification.get("unit", "bases")
        low, high = interval(best)
        around = f" (95 %: {low:.0%} to {high:.0%})" if low < high else ""
        chance = f"chance {run.classification['chance']:.0%}"
        length = length_label(best["length"], units)
        yield _tile(f"{best['accuracy']:.1%}", f"accuracy at {length} {units}{around}; {chance}")
    measured = [result for _, result in _evaluations(run)]
    parameters = [_parameters(result) for result in (run.sound.bits or {}, *measured)]
    if known := [count for count in parameters if count]:
        yield _tile(quantity(known[0]), "parameters")
    if tokens := run.metrics["train/tokens"]:
        yield _tile(
            quantity(tokens.values[-1]), f"{run.units} read in {tokens.steps[-1]:,.0f} optimizer steps"
        )
    if speed := run.metrics["train/tokens_per_second"]:
        middle = sorted(speed.values)[len(speed.values) // 2]
        yield _tile(quantity(middle), f"{run.units} per second in training (median)")
    if memory := run.metrics["train/peak_memory_gb"]:
        yield _tile(f"{max(memory.values):.3g} GB", "peak memory in training")


def _parameters(result: Mapping[str, Any]) -> float | None:
    model = result.get("model")
    count = model.get("parameters") if isinstance(model, dict) else None
    return count if isinstance(count, int | float) else None


def _tile(value: str, note: str) -> Markup:
    return element("li", element("strong", value), element("span", note))


def title_of(runs: Sequence[RunResults]) -> str:
    """Names of the runs."""
    return ", ".join(run.name for run in runs)
