"""A line chart as inline SVG: series, shaded stages, rules, error bars; style.css holds the colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bioaudio_recipes.report.axis import Axis, decades, log_span, span, tick_labels
from bioaudio_recipes.report.markup import Markup, element

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 76, 24, 26, 52
MOST_POINTS = 500
PALETTE = 8
"""Colours in the style sheet; further series use them again."""
LABEL_STEP = 15
NARROWEST_LABELLED = 30


@dataclass(frozen=True, kw_only=True)
class Series:
    """A named line."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: int = 0
    """Which colour of the palette."""
    low: Sequence[float] = ()
    """Lower ends of error bars; empty for none."""
    high: Sequence[float] = ()
    """Upper ends of error bars."""
    has_markers: bool = False
    point_labels: Sequence[str] = ()
    """What to write above each point; empty for nothing."""

    @property
    def is_marked(self) -> bool:
        """Whether its points are drawn; a lone one always is."""
        return self.has_markers or len(self.x) == 1


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A labelled horizontal line."""

    label: str
    y: float


@dataclass(frozen=True, kw_only=True)
class Band:
    """A stretch of the x axis that is shaded, every second one darker."""

    name: str
    start: float
    end: float


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """What a chart shows; `draw` makes the SVG."""

    title: str
    """Read out by screen readers."""
    description: str
    """The same, one sentence of what there is to see."""
    x_label: str
    y_label: str
    series: Sequence[Series]
    rules: Sequence[Rule] = ()
    bands: Sequence[Band] = ()
    x_log: bool = False
    x_ticks: Sequence[float] = ()
    """Values to label on the x axis; empty for round ones."""
    x_text: Callable[[float], str] | None = None
    """How a value of the x axis is written."""
    y_log: bool = False
    y_from_zero: bool = False
    """Whether the y axis starts at 0."""
    y_limits: tuple[float, float] | None = None
    """Fixed limits; what lies outside is cut."""

    def draw(self, identifier: str) -> Markup:
        """The chart as one `svg` element.

        Args:
            identifier: unique on the page; ties title, description and clip path to the chart.
        """
        return element(
            "svg",
            *self.parts(identifier),
            viewBox=f"0 0 {WIDTH} {HEIGHT}",
            role="img",
            aria_labelledby=f"{identifier}-title {identifier}-desc",
            class_="chart",
        )

    def parts(self, identifier: str) -> Iterator[Markup]:
        """What is inside the `svg` element, `WIDTH` by `HEIGHT`."""
        x, y = self._axes()
        clip = f"{identifier}-clip"
        frame = element("rect", x=LEFT, y=TOP, width=WIDTH - LEFT - RIGHT, height=HEIGHT - TOP - BOTTOM)
        yield element("title", self.title, id=f"{identifier}-title")
        yield element("desc", self.description, id=f"{identifier}-desc")
        yield element("defs", element("clipPath", frame, id=clip))
        yield from self._bands(x)
        yield from self._grid(x, y)
        yield from self._rules(y)
        lines = (part for s in self.series for part in _line(s, x, y))
        yield element("g", *lines, clip_path=f"url(#{clip})")
        yield from self._rule_labels(y)
        yield from self._point_labels(x, y)

    def legend(self) -> Markup:
        """Names of the series beside their colours, as a list; empty for a single series."""
        if len(self.series) < 2:
            return Markup("")
        items = (
            element("li", element("span", class_=f"swatch c{s.color % PALETTE}"), s.name) for s in self.series
        )
        return element("ul", *items, class_="legend")

    def _axes(self) -> tuple[Axis, Axis]:
        xs = [value for series in self.series for value in series.x]
        xs += [end for band in self.bands for end in (band.start, band.end)]
        low, high = min(xs), max(xs)
        if low == high:
            low, high = (low / 2, high * 2) if self.x_log else (min(low, 0), max(high, 1))
        ys = [v for s in self.series for values in (s.y, s.low, s.high) for v in values]
        ys += [rule.y for rule in self.rules]
        limits = self.y_limits or (log_span(ys) if self.y_log else span(ys, self.y_from_zero))
        inset = max(24 if s.point_labels else 10 if s.is_marked else 0 for s in self.series)
        return (
            Axis(low, high, LEFT + inset, WIDTH - RIGHT - inset, self.x_log),
            Axis(*limits, HEIGHT - BOTTOM, TOP, self.y_log),
        )

    def _bands(self, x: Axis) -> Iterator[Markup]:
        for index, band in enumerate(self.bands):
            start, end = x.place(band.start), x.place(band.end)
            box = element(
                "rect",
                element("title", band.name),
                x=start,
                y=TOP,
                width=max(end - start, 0),
                height=HEIGHT - TOP - BOTTOM,
                class_=f"band band{index % 2}",
            )
            yield box
            if end - start >= NARROWEST_LABELLED:
                yield element("text", band.name, x=(start + end) / 2, y=TOP - 8, class_="note middle")

    def _grid(self, x: Axis, y: Axis) -> Iterator[Markup]:
        y_ticks = decades(y.low, y.high) if self.y_log else y.ticks(5)
        y_labels = [f"{tick:,.10g}" for tick in y_ticks] if self.y_log else tick_labels(y_ticks)
        for value, label in zip(y_ticks, y_labels, strict=True):
            at = y.place(value)
            yield element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="grid")
            yield element("text", label, x=LEFT - 8, y=at + 4, class_="end")
        x_ticks = list(self.x_ticks) or x.ticks(6)
        labels = [self.x_text(tick) for tick in x_ticks] if self.x_text else tick_labels(x_ticks)
        for value, label in zip(x_ticks, labels, strict=True):
            at = x.place(value)
            yield element("line", x1=at, x2=at, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM + 4, class_="axis")
            yield element("text", label, x=at, y=HEIGHT - BOTTOM + 19, class_="middle")
        yield element(
            "line", x1=LEFT, x2=WIDTH - RIGHT, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM, class_="axis"
        )
        middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
        yield element("text", self.x_label, x=middle_x, y=HEIGHT - 10, class_="label middle")
        yield element(
            "text", self.y_label, transform=f"translate(13 {middle_y:.0f}) rotate(-90)", class_="label middle"
        )

    def _rules(self, y: Axis) -> Iterator[Markup]:
        for rule in self.rules:
            at = y.place(rule.y)
            yield element(
                "line", element("title", rule.label), x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="rule"
            )

    def _rule_labels(self, y: Axis) -> Iterator[Markup]:
        """Above a rule; where rules lie close together, half of the labels above, half below if they fit."""
        rules = sorted(self.rules, key=lambda rule: y.place(rule.y))
        cluster: list[Rule] = []
        for rule, following in zip(rules, [*rules, None][1:], strict=True):
            cluster.append(rule)
            if following is None or y.place(following.y) - y.place(rule.y) > LABEL_STEP:
                top, bottom = y.place(cluster[0].y), y.place(cluster[-1].y)
                below = min(len(cluster) // 2, int((HEIGHT - BOTTOM - bottom) / LABEL_STEP))
                above = len(cluster) - below
                heights = [top - 5 - LABEL_STEP * i for i in reversed(range(above))]
                heights += [bottom + 14 + LABEL_STEP * i for i in range(below)]
                for member, at in zip(cluster, heights, strict=True):
                    yield element("text", member.label, x=WIDTH - RIGHT - 4, y=at, class_="note end halo")
                cluster = []

    def _point_labels(self, x: Axis, y: Axis) -> Iterator[Markup]:
        for s in self.series:
            for label, at_x, at_y in zip(s.point_labels, s.x, s.y, strict=bool(s.point_labels)):
                above = y.place(at_y) - 10
                yield element("text", label, x=x.place(at_x), y=above, class_="note middle halo")


def thinned(count: int, most: int = MOST_POINTS) -> list[int]:
    """Indices of at most about `most` of `count` points, evenly spaced, the last one included."""
    if count <= most:
        return list(range(count))
    step = math.ceil(count / most)
    return sorted({*range(0, count, step), count - 1})


def _line(series: Series, x: Axis, y: Axis) -> Iterator[Markup]:
    kept = thinned(len(series.x))
    points = [(x.place(series.x[i]), y.place(series.y[i])) for i in kept]
    path = "M" + " L".join(f"{px:.1f} {py:.1f}" for px, py in points)
    color = f"c{series.color % PALETTE}"
    yield element("path", element("title", series.name), d=path, class_=f"line {color}")
    for i, (px, _) in zip(kept, points, strict=True) if series.low else ():
        yield element(
            "line",
            x1=px,
            x2=px,
            y1=y.place(series.low[i]),
            y2=y.place(series.high[i]),
            class_=f"error {color}",
        )
    for i, (px, py) in zip(kept, points, strict=True) if series.is_marked else ():
        title = element("title", f"{series.name}: {series.y[i]:.4g}")
        yield element("circle", title, cx=px, cy=py, r=4, class_=f"marker {color}")
