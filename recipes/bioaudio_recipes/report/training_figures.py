"""Figures of training: loss, validation at several lengths, learning rate, throughput, memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bioaudio_recipes.report.axis import length_label, quantity
from bioaudio_recipes.report.figure import figure
from bioaudio_recipes.report.line_chart import Band, LineChart, Series, thinned
from bioaudio_recipes.report.markup import Markup
from bioaudio_recipes.report.run_results import Curve, Metrics
from bioaudio_recipes.report.table import table

MOST_TABLE_ROWS = 25
STARTUP_PART = 0.05
"""The first part of a run, whose losses may lie above the frame so that the rest can be told apart."""

MEASURED = {
    "lr": ("learning rate", "Learning rate at each logged step, scheduled over all stages together."),
    "tokens_per_second": ("{unit}s per second", "Throughput between logged steps, validation excluded."),
    "peak_memory_gb": ("GB", "Peak memory so far: of the GPU where there is one, else of the process."),
    "grad_norm": ("gradient norm", "Norm of the gradient before clipping."),
}


def training_figures(metrics: Metrics, identifier: str) -> Iterator[Markup]:
    """One figure for each quantity that was logged."""
    bands = _bands(metrics, f"{metrics.unit}s")
    staged = (
        f" Shaded bands are the stages of length warm-up, named by their window length in {metrics.unit}s."
        if bands
        else ""
    )
    yield from _loss(metrics, bands, staged, f"{identifier}-loss")
    yield from _validation(metrics, bands, f"{identifier}-validation")
    for name, (label, caption) in MEASURED.items():
        if curve := metrics[f"train/{name}"]:
            key, label = f"{identifier}-{name}", label.format(unit=metrics.unit)
            yield _over_steps([_series(label, curve)], label, caption, bands, key, from_zero=True)


def classifier_training(finetuning: Mapping[int, Metrics], units: str, identifier: str) -> Iterator[Markup]:
    """Accuracy while fine-tuning, a figure for each window length."""
    for length, metrics in finetuning.items():
        series = [_series("training", metrics["train/accuracy"])] if metrics["train/accuracy"] else []
        for color, (n, curve) in enumerate(metrics.at_lengths("val/accuracy").items(), start=1):
            name = f"validation at {length_label(n, units)}"
            series.append(_series(name, curve, color, has_markers=True))
        if series:
            caption = (
                f"Accuracy while fine-tuning at {length_label(length, units)} {units}: on the training "
                "examples since the previous logged step, and on the validation windows, which are the same "
                "every time."
            )
            yield _over_steps(
                series,
                "accuracy",
                caption,
                _bands(metrics, units),
                f"{identifier}-finetune-{length}",
                from_zero=True,
            )


def _bands(metrics: Metrics, units: str) -> list[Band]:
    """Stages of length warm-up; none where all steps have one length."""
    stages = metrics.stages if len(metrics.stages) > 1 else []
    return [
        Band(name=length_label(stage.length, units), start=stage.start, end=stage.end) for stage in stages
    ]


def _loss(metrics: Metrics, bands: Sequence[Band], staged: str, identifier: str) -> Iterator[Markup]:
    unit = metrics.unit
    curve, label = metrics[f"train/bits_per_{unit}"], f"bits per {unit}"
    if not curve:
        curve, label = metrics["train/loss"], "loss (nats)"
    if not curve:
        return
    caption = f"Training loss: mean over the {unit}s predicted since the previous logged step." + staged
    if unit == "sample":
        caption += " Silence that fills up short clips is among them if the run learns it (data.short)."
    settled = curve.values[int(len(curve.values) * STARTUP_PART) :]
    highest, lowest = max(settled), min(settled)
    margin = 0.06 * (highest - lowest) or 0.1
    limits = (lowest - margin, highest + margin)
    if max(curve.values) > limits[1]:
        caption += " The first steps lie above the frame."
    yield _over_steps([_series("training", curve)], label, caption, bands, identifier, limits=limits)


def _validation(metrics: Metrics, bands: Sequence[Band], identifier: str) -> Iterator[Markup]:
    is_sound, units = metrics.unit == "sample", f"{metrics.unit}s"
    name = "bits per sample" if is_sound else "perplexity"
    curves = metrics.at_lengths("val/bits_per_sample" if is_sound else "val/perplexity")
    if not curves:
        return
    # Before the first step the value is that of fresh weights, which would flatten all that follows.
    trained = {n: _after_start(curve) for n, curve in curves.items()}
    series = [
        _series(f"windows of {length_label(n, units)}", curve, color, has_markers=len(curve.steps) < 8)
        for color, (n, curve) in enumerate(trained.items())
    ]
    caption = (
        f"{name.capitalize()} on the validation split, the same windows every time, by the length of the "
        "window."
    )
    if any(len(curve.steps) > len(trained[n].steps) for n, curve in curves.items()):
        caption += " The value before the first step is left out here; the table has it."
    yield _over_steps(
        series, f"validation {name}", caption, bands, identifier,
        tabled=[_series(f"windows of {length_label(n, units)}", curve) for n, curve in curves.items()],
    )  # fmt: skip


def _after_start(curve: Curve) -> Curve:
    if len(curve.steps) > 1 and curve.steps[0] == 0:
        return Curve(curve.steps[1:], curve.values[1:])
    return curve


def _series(name: str, curve: Curve, color: int = 0, has_markers: bool = False) -> Series:
    return Series(name=name, x=curve.steps, y=curve.values, color=color, has_markers=has_markers)


def _over_steps(
    series: Sequence[Series],
    label: str,
    caption: str,
    bands: Sequence[Band],
    identifier: str,
    from_zero: bool = False,
    limits: tuple[float, float] | None = None,
    tabled: Sequence[Series] | None = None,
) -> Markup:
    chart = LineChart(
        title=f"{label} against optimizer step",
        description=caption,
        x_label="optimizer step",
        y_label=label,
        series=series,
        bands=bands,
        y_from_zero=from_zero,
        y_limits=limits,
    )
    return figure(chart, caption, _table(tabled or series, label), identifier)


def _table(series: Sequence[Series], label: str) -> Markup:
    steps = sorted({step for s in series for step in s.x})
    kept = [steps[i] for i in thinned(len(steps), MOST_TABLE_ROWS)]
    cells = [dict(zip(s.x, s.y, strict=True)) for s in series]
    rows = [[f"{step:,.0f}", *(_cell(values.get(step)) for values in cells)] for step in kept]
    note = "" if len(kept) == len(steps) else f" ({len(kept)} of {len(steps):,} rows of metrics.csv)"
    return table(f"{label} by step{note}", ["step", *(s.name for s in series)], rows)


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return quantity(value, 4) if abs(value) >= 1e4 else f"{value:.4g}"
