"""Tables of numbers, each in a box that scrolls by itself where the page is narrower."""

from __future__ import annotations

from collections.abc import Sequence

from bioaudio_recipes.report.markup import Markup, element


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """A table; the first cell of a row is its heading, all others are numbers."""
    head = element("tr", *(element("th", cell, scope="col") for cell in header))
    body = (
        element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:]))
        for row in rows
    )
    content = element("table", element("caption", caption), element("thead", head), element("tbody", *body))
    return element("div", content, class_="scroll", tabindex=0, role="region", aria_label=caption)


def pairs(rows: Sequence[tuple[str, str]]) -> Markup:
    """Names and values as a definition list."""
    return element("dl", *(element("div", element("dt", name), element("dd", text)) for name, text in rows))


def folded(summary: str, *children: str) -> Markup:
    """What a reader opens when interested."""
    return element("details", element("summary", summary), *children)
