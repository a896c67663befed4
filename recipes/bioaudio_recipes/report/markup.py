"""HTML and SVG elements whose text is escaped unless it is markup already."""

from __future__ import annotations

import html
from collections.abc import Iterable


class Markup(str):
    """Text that is HTML or SVG; only `element` and `joined` make it, so that no other text goes unescaped."""


def element(tag: str, *children: str, **attributes: str | float) -> Markup:
    """One element with its children.

    Args:
        tag: name of the element.
        children: markup, taken as it is, or plain text, which is escaped.
        attributes: values are escaped; `class_` stands for `class`, other underscores for hyphens, and
            numbers are written with at most two decimals.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(number(value))}"'
        for name, value in attributes.items()
    )
    if tag in _VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{joined(children)}</{tag}>")


def joined(parts: Iterable[str]) -> Markup:
    """Parts one after the other: markup as it is, plain text escaped."""
    return Markup("".join(part if isinstance(part, Markup) else html.escape(part) for part in parts))


def number(value: str | float) -> str:
    """A coordinate with at most two decimals; text as it is."""
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


_VOID = frozenset({"meta", "br", "img"})
