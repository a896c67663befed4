"""What every reader of genome files yields: contig after contig, each a start and then runs of bases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ContigStart:
    """A contig begins; the runs of bases up to the next start are its own."""

    name: str
    place: str
    """File and line or record, for messages."""


BaseStream = Iterator[ContigStart | np.ndarray]
"""Starts, and runs of bases: uint8 (length,), token id | `SOFT_MASK_BIT`; UNK is an ambiguity letter."""


def start_contig(raw_name: bytes, place: str) -> ContigStart:
    """The start of a contig named by bytes of a file.

    Raises:
        ValueError: if the name is empty, not UTF-8, or has a character that does not print.
    """
    try:
        name = raw_name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{place}: the contig name {raw_name!r} is not UTF-8") from error
    if not name:
        raise ValueError(f"{place}: a contig has no name")
    if not name.isprintable():
        raise ValueError(f"{place}: the contig name {name!r} has a character that does not print")
    return ContigStart(name, place)
