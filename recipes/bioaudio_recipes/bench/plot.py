"""Time or memory against length or batch size, all logarithmic, a line for each contender."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Literal

from bioaudio_recipes.bench.race import Heat, Result
from bioaudio_recipes.report.axis import bases_label
from bioaudio_recipes.report.line_chart import LineChart, Series
from bioaudio_recipes.report.standalone import standalone_svg


def race_plot(
    title: str, heats: Sequence[Heat], measured: str, against: Literal["length", "batch"]
) -> str | None:
    """An SVG of one pass's milliseconds; None if that was not timed at two points at least.

    Args:
        title: what was raced, on what.
        heats: the same race at several lengths or batch sizes.
        measured: name of the pass.
        against: what lies along.
    """

    def milliseconds(result: Result) -> float | None:
        return result.milliseconds.get(measured)

    return _plot(f"{title}: {measured}", f"median milliseconds of {measured}", heats, milliseconds, against)


def memory_plot(title: str, heats: Sequence[Heat], against: Literal["length", "batch"]) -> str | None:
    """An SVG of the most memory that the last pass held; None if that was not measured at two points."""

    def gigabytes(result: Result) -> float | None:
        return None if result.reason or not result.peak_bytes else result.peak_bytes / 1e9

    return _plot(f"{title}: peak memory", "peak memory in GB", heats, gigabytes, against)


def _plot(
    title: str,
    y_label: str,
    heats: Sequence[Heat],
    value: Callable[[Result], float | None],
    against: Literal["length", "batch"],
) -> str | None:
    place = attrgetter(against)
    points = sorted({place(heat.shape) for heat in heats})
    lines = []
    for color, first in enumerate(heats[0].results):
        found = [
            (place(heat.shape), y)
            for heat in heats
            for result in heat.results
            if result.name == first.name and (y := value(result)) is not None
        ]
        if found:
            xs, ys = zip(*sorted(found), strict=True)
            lines.append(Series(name=first.name, x=xs, y=ys, color=color, has_markers=True))
    if len(points) < 2 or not lines:
        return None
    chart = LineChart(
        title=title,
        description=f"{y_label.capitalize()} against {against}, both axes logarithmic.",
        x_label=f"{against} (k = 1,024)",
        y_label=y_label,
        series=lines,
        x_log=True,
        x_ticks=points if len(points) <= 8 else (),
        x_text=bases_label,
        y_log=True,
    )
    return standalone_svg(chart)
