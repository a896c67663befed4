"""A figure: chart, legend, caption, and the numbers behind it, folded away."""

from __future__ import annotations

from bioaudio_recipes.report.line_chart import LineChart
from bioaudio_recipes.report.markup import Markup, element
from bioaudio_recipes.report.table import folded


def figure(chart: LineChart | Markup, caption: str, numbers: Markup, identifier: str) -> Markup:
    """One figure; the style sheet numbers the captions.

    Args:
        chart: what to draw, or a drawing.
        caption: what it shows, in sentences.
        numbers: table of its numbers.
        identifier: unique on the page.
    """
    drawing = [chart] if isinstance(chart, Markup) else [chart.legend(), chart.draw(identifier)]
    return element(
        "figure", *drawing, element("figcaption", caption), folded("Numbers", numbers), id=identifier
    )
