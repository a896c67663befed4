"""A confusion matrix as inline SVG: a row a true class, every cell shaded by its share of the row."""

from __future__ import annotations

from collections.abc import Sequence

from bioaudio_recipes.report.markup import Markup, element

WIDTH = 480
LEFT, TOP, RIGHT, BOTTOM = 112, 34, 6, 8
LONGEST_NAME = 13
CHARACTER = 8.5
"""Width of a character at most."""
HIGHEST_ROW = 64.0
ROOM_FOR_COUNT = 44
"""Rows that are less high hold the share alone."""
MIDDLE_FILL, STRONG_FILL = 0.55, 0.78
"""Shares from which on a cell is dark enough to ask for another ink."""


def confusion_chart(
    classes: Sequence[str], counts: Sequence[Sequence[int]], title: str, identifier: str
) -> Markup:
    """The matrix as one `svg` element.

    Args:
        classes: names, in the order of rows and columns.
        counts: examples by true class (row) and predicted class (column).
        title: read out by screen readers.
        identifier: unique on the page.
    """
    width = (WIDTH - LEFT - RIGHT) / len(classes)
    height = min(width, HIGHEST_ROW)
    description = "Rows are true classes, columns are predicted ones; shares are of the row."
    parts = [
        element("title", title, id=f"{identifier}-title"),
        element("desc", description, id=f"{identifier}-desc"),
    ]
    for i, name in enumerate(classes):
        full = element("title", name)
        middle, across = TOP + (i + 0.5) * height + 4, LEFT + (i + 0.5) * width
        beside, above = shortened(name, LONGEST_NAME), shortened(name, int(width / CHARACTER))
        parts.append(element("text", full, beside, x=LEFT - 8, y=middle, class_="end"))
        parts.append(element("text", full, above, x=across, y=TOP - 9, class_="middle"))
    for i, row in enumerate(counts):
        total = sum(row)
        for j, count in enumerate(row):
            text = f"{classes[i]} taken for {classes[j]}: {count:,} of {total:,}"
            share = count / total if total else 0.0
            parts += _cell(LEFT + j * width, TOP + i * height, width, height, share, count, text)
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH} {TOP + height * len(classes) + BOTTOM:.0f}",
        role="img",
        aria_labelledby=f"{identifier}-title {identifier}-desc",
        class_="chart",
    )


def shortened(name: str, longest: int) -> str:
    """A name cut to fit, with an ellipsis where it was."""
    return name if len(name) <= longest else name[: max(longest - 1, 1)] + "…"


def _cell(
    x: float, y: float, width: float, height: float, share: float, count: int, text: str
) -> list[Markup]:
    ink = "onempty" if share < MIDDLE_FILL else "onmiddle" if share < STRONG_FILL else "onfull"
    box = {"x": x + 1, "y": y + 1, "width": width - 2, "height": height - 2, "rx": 3}
    middle, has_room = y + height / 2, height >= ROOM_FOR_COUNT
    parts = [
        element("rect", **box, class_="cell"),
        element("rect", element("title", text), **box, class_="fill", fill_opacity=f"{share:.3f}"),
    ]
    centre = {"x": x + width / 2, "class_": f"middle {ink}"}
    parts.append(element("text", f"{share:.0%}", y=middle + (-1 if has_room else 4), **centre))
    if has_room:
        parts.append(element("text", f"{count:,}", y=middle + 16, **centre))
    return parts
