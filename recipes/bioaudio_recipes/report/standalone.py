"""A line chart as an SVG file of its own, in the light colours of the report."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files

from bioaudio_recipes.report.line_chart import HEIGHT, LEFT, PALETTE, WIDTH, LineChart
from bioaudio_recipes.report.markup import Markup, element

LEGEND_COLUMNS = 2
LEGEND_ROW = 18
SWATCH = 18


def standalone_svg(chart: LineChart) -> str:
    """The chart with its style and its legend below it; text of the file."""
    rows = -(-len(chart.series) // LEGEND_COLUMNS)
    height = HEIGHT + rows * LEGEND_ROW + 8
    svg = element(
        "svg",
        element("style", Markup(_style())),
        element("rect", width=WIDTH, height=height, class_="paper"),
        element("text", chart.title, x=LEFT, y=16, class_="label"),
        *chart.parts("chart"),
        *_legend(chart),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {height}",
        width=2 * WIDTH,
        height=2 * height,
        role="img",
        aria_labelledby="chart-title chart-desc",
        class_="chart",
    )
    return f"{svg}\n"


def _legend(chart: LineChart) -> Iterator[Markup]:
    for number, series in enumerate(chart.series):
        row, column = divmod(number, LEGEND_COLUMNS)
        x = LEFT + column * (WIDTH - LEFT) / LEGEND_COLUMNS
        y = HEIGHT + row * LEGEND_ROW + 6
        color = f"c{series.color % PALETTE}"
        yield element("line", x1=x, x2=x + SWATCH, y1=y, y2=y, class_=f"line {color}")
        yield element("text", series.name, x=x + SWATCH + 6, y=y + 4)


def _style() -> str:
    """The chart's rules of the style sheet, each variable replaced by its first, light value."""
    sheet = files("bioaudio_recipes.report").joinpath("style.css").read_text(encoding="utf-8")
    values: dict[str, str] = {}
    for name, value in re.findall(r"--(\w+): ([^;]+);", sheet):
        values.setdefault(name, value)
    rules = [line for line in sheet.splitlines() if re.match(r"\.(chart|c\d)\b", line)]
    rules += [".paper { fill: var(--paper); }", "text { font-family: sans-serif; }"]
    return re.sub(r"var\(--(\w+)\)", lambda match: values[match[1]], "\n".join(rules))
