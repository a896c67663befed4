"""A confusion matrix as inline SVG: a row a true class, shaded by its share, with share and count in every cell."""

from __future__ import annotations

from collections.abc import Sequence

from bioaudio_recipes.report.markup import Markup, element

WIDTH = 480
LEFT, TOP, RIGHT, BOTTOM = 112, 34, 6, 8
LONGEST_NAME = 14


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
    cell = (WIDTH - LEFT - RIGHT) / len(classes)
    row_height = min(cell, 64.0)
    parts = [
        element("title", title, id=f"{identifier}-title"),
        element(
            "desc",
            "Rows are true classes, columns are predictions; shares are of the row.",
            id=f"{identifier}-desc",
        ),
    ]
    for i, name in enumerate(classes):
        middle = TOP + (i + 0.5) * row_height + 4
        parts.append(
            element("text", element("title", name), shortened(name), x=LEFT - 8, y=middle, class_="end")
        )
        across = LEFT + (i + 0.5) * cell
        width = max(4, int(cell / 8))
        parts.append(
            element(
                "text", element("title", name), shortened(name, width), x=across, y=TOP - 9, class_="middle"
            )
        )
    for i, row in enumerate(counts):
        total = sum(row)
        for j, count in enumerate(row):
            share = count / total if total else 0.0
            parts += _cell(LEFT + j * cell, TOP + i * row_height, cell, row_height, share, count,
                           f"{classes[i]} taken for {classes[j]}: {count:,} of {total:,}")  # fmt: skip
    height = TOP + row_height * len(classes) + BOTTOM
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH} {height:.0f}",
        role="img",
        aria_labelledby=f"{identifier}-title {identifier}-desc",
        class_="chart",
    )


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """A name cut to fit, with an ellipsis where it was."""
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _cell(
    x: float, y: float, width: float, height: float, share: float, count: int, text: str
) -> list[Markup]:
    ink = "onfill" if share > 0.5 else "oncell"
    box = {"x": x + 1, "y": y + 1, "width": width - 2, "height": height - 2, "rx": 3}
    parts = [
        element("rect", **box, class_="cell"),
        element("rect", element("title", text), **box, class_="fill", fill_opacity=f"{share:.3f}"),
        element(
            "text",
            f"{share:.0%}",
            x=x + width / 2,
            y=y + height / 2 + (0 if height > 40 else 4),
            class_=f"middle {ink}",
        ),  # fmt: skip
    ]
    if height > 40:
        parts.append(
            element("text", f"{count:,}", x=x + width / 2, y=y + height / 2 + 16, class_=f"middle note {ink}")
        )
    return parts
