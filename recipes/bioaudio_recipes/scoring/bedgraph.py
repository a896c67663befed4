"""bedGraph: `contig<tab>start<tab>end<tab>value`, 0-based and half-open, a line for every scored base."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DECIMALS = 4
TAB, LINE_END, MINUS, POINT, ZERO = b"\t\n-.0"
COMPRESSION = 4


class BedGraph:
    """Lines of a file, in the order in which they are added."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def add(self, contig: str, start: int, scores: NDArray[np.float32]) -> None:
        """Add the scores of neighbouring bases, of which that at `start` is the first; NaN has no line."""
        self._write(bedgraph_lines(contig, start, scores))


@contextmanager
def open_bedgraph(path: Path) -> Iterator[BedGraph]:
    """Write a file, compressed if its name ends in .gz; the same lines always give the same bytes."""
    with path.open("wb") as raw:
        if path.suffix != ".gz":
            yield BedGraph(raw.write)
            return
        with gzip.GzipFile("", "wb", COMPRESSION, fileobj=raw, mtime=0) as file:
            yield BedGraph(file.write)


def bedgraph_lines(contig: str, start: int, scores: NDArray[np.float32]) -> bytes:
    """The lines of log-likelihoods (0 or less) with `DECIMALS` decimals, all at once: a table of letters.

    A number's columns hold as many digits as the largest needs; leading zeros are left out at the end.
    """
    rows = np.flatnonzero(~np.isnan(scores))
    if not len(rows):
        return b""
    starts = rows + start
    values = np.rint(-scores[rows].astype(np.float64) * 10**DECIMALS).astype(np.int64)
    whole, fraction = np.divmod(values, 10**DECIMALS)
    name = np.frombuffer(contig.encode() + b"\t", np.uint8)
    columns = [
        _same(name, len(rows)),
        _digits(starts),
        _same([TAB], len(rows)),
        _digits(starts + 1),
        _same([TAB], len(rows)),
        (np.full((len(rows), 1), MINUS, np.uint8), values[:, None] > 0),
        _digits(whole),
        _same([POINT], len(rows)),
        (_digits(fraction, DECIMALS)[0], np.ones((len(rows), DECIMALS), np.bool_)),
        _same([LINE_END], len(rows)),
    ]
    letters = np.concatenate([part for part, _ in columns], axis=1)
    kept = np.concatenate([shown for _, shown in columns], axis=1)
    return letters[kept].tobytes()


Columns = tuple[NDArray[np.uint8], NDArray[np.bool_]]
"""Letters (rows, columns), and which of them are written."""


def _same(letters: NDArray[np.uint8] | list[int], rows: int) -> Columns:
    shape = rows, len(letters)
    return np.broadcast_to(np.array(letters, np.uint8), shape), np.ones(shape, np.bool_)


def _digits(numbers: NDArray[np.int64], width: int | None = None) -> Columns:
    width = len(str(numbers.max())) if width is None else width
    letters = np.empty((len(numbers), width), np.uint8)
    shown = np.empty((len(numbers), width), np.bool_)
    rest = numbers
    for column in reversed(range(width)):
        shown[:, column] = (rest > 0) | (column == width - 1)
        rest, digit = np.divmod(rest, 10)
        letters[:, column] = digit + ZERO
    return letters, shown
