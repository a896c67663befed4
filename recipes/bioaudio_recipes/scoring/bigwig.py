"""bigWig, by the package pyBigWig (the extra `bigwig`)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class BigWig:
    """Scores of a file, contig after contig in the order of its header."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def add(self, contig: str, start: int, scores: NDArray[np.float32]) -> None:
        """Add the scores of neighbouring bases, of which that at `start` is the first; NaN is left out."""
        rows = np.flatnonzero(~np.isnan(scores))
        if len(rows):
            values = scores[rows].astype(np.float64)
            self._file.addEntries(contig, rows + start, values=values, span=1)


def require_pybigwig() -> Any:
    """The module.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        return importlib.import_module("pyBigWig")
    except ImportError as error:
        raise ValueError("--bigwig needs pyBigWig: pip install 'bioaudio-mamba[bigwig]'") from error


@contextmanager
def open_bigwig(path: Path, contigs: Mapping[str, int]) -> Iterator[BigWig]:
    """Write a file of these contigs and their lengths."""
    file = require_pybigwig().open(str(path), "w")
    try:
        file.addHeader(list(contigs.items()))
        yield BigWig(file)
    finally:
        file.close()
