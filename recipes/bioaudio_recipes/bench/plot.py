"""Time against length, or against batch size, both logarithmic, a line for each contender."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Literal

from bioaudio_recipes.bench.race import Heat
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
    place = attrgetter(against)
    points = sorted({place(heat.shape) for heat in heats})
    lines = []
    for color, first in enumerate(heats[0].results):
        timed = [
            (place(heat.shape), result.milliseconds[measured])
            for heat in heats
            for result in heat.results
            if result.name == first.name and measured in result.milliseconds
        ]
        if timed:
            xs, ys = zip(*sorted(timed), strict=True)
            lines.append(Series(name=first.name, x=xs, y=ys, color=color, has_markers=True))
    if len(points) < 2 or not lines:
        return None
    chart = LineChart(
        title=f"{title}: {measured}",
        description=f"Median milliseconds of {measured} against {against}, both axes logarithmic.",
        x_label=f"{against} (k = 1,024)",
        y_label=f"{measured}, milliseconds",
        series=lines,
        x_log=True,
        x_ticks=points if len(points) <= 8 else (),
        x_text=bases_label,
        y_log=True,
    )
    return standalone_svg(chart)
