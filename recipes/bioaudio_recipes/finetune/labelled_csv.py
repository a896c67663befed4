"""Read a CSV of labelled sequences: columns `sequence`, `label` and, optionally, `split`."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bioaudio_data.vocabulary import DNA

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class LabelledSequences:
    """Sequences of any lengths, each with a class and a split, in the order of the file."""

    classes: tuple[str, ...]
    """Names of the classes, sorted."""
    labels: np.ndarray
    """Place of each row's class in `classes`, int64 (rows,)."""
    splits: np.ndarray
    """Split of each row, str (rows,): train, valid or test."""
    tokens: np.ndarray
    """Token ids of all sequences, one after the other, uint8 (bases,)."""
    offsets: np.ndarray
    """Row r holds `tokens[offsets[r]:offsets[r + 1]]`, int64 (rows + 1,)."""

    def sequence(self, row: int) -> np.ndarray:
        """Token ids of one row, uint8 (length,)."""
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]

    def rows(self, split: str) -> np.ndarray:
        """Rows of a split, int64, in the order of the file."""
        return np.flatnonzero(self.splits == split)

    @property
    def longest(self) -> int:
        """Length of the longest sequence."""
        return int(np.diff(self.offsets).max())


def read_labelled_csv(path: Path, *, test_fraction: float, seed: int) -> LabelledSequences:
    """Read and check a CSV with a header line; upper and lower case are one, N is a letter.

    Args:
        path: file with the columns sequence, label and perhaps split (train, valid or test).
        test_fraction: without a split column, the share of each class's rows that become the test split.
        seed: of that choice.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file and line, for what cannot be learned from.
    """
    sequences: list[np.ndarray] = []
    labels: list[str] = []
    splits: list[str] = []
    for line, row in _rows(path):
        place = f"{path}, line {line}"
        sequences.append(_tokens(row["sequence"], place))
        labels.append(_named(row["label"], "label", place))
        splits.append(_split(row["split"], place) if "split" in row else "")
    classes = sorted(set(labels))
    if len(classes) < 2:
        found = ", ".join(classes) or "no rows"
        raise ValueError(f"{path}: a classifier needs at least two labels, found {found}")
    indices = np.searchsorted(classes, labels)
    chosen = np.array(splits) if splits[0] else _stratified(path, classes, indices, test_fraction, seed)
    _check_every_class(path, classes, indices, chosen)
    return LabelledSequences(
        classes=tuple(classes),
        labels=indices.astype(np.int64),
        splits=chosen,
        tokens=np.concatenate(sequences),
        offsets=np.cumsum([0, *map(len, sequences)]),
    )


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number (that on which the row ends) and cells of every row, after a check of the header."""
    with _long_fields(), path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = [cell.strip().lower() for cell in next(reader, [])]
            missing = [name for name in ("sequence", "label") if name not in header]
            if missing:
                found = ", ".join(header) or "nothing"
                raise ValueError(f"{path}, line 1: no column {' or '.join(missing)}; the header has {found}")
            for cells in filter(None, reader):
                if len(cells) != len(header):
                    raise ValueError(
                        f"{path}, line {reader.line_num}: {len(cells)} cells, the header has {len(header)}"
                    )
                yield reader.line_num, dict(zip(header, cells, strict=True))
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not text in UTF-8 ({error.reason} at byte {error.start})") from error


@contextmanager
def _long_fields() -> Iterator[None]:
    """The csv module refuses cells above 131,072 characters unless told; sequences may be longer."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _tokens(cell: str, place: str) -> np.ndarray:
    sequence = cell.strip()
    if not sequence:
        raise ValueError(f"{place}: the sequence is empty")
    tokens = DNA.encode(sequence)
    unknown = np.flatnonzero(tokens == DNA.UNK)
    if unknown.size:
        letter = sequence[unknown[0]]
        raise ValueError(
            f"{place}: unknown letter {letter!r} at position {unknown[0] + 1}; allowed are A C G T N"
        )
    return tokens


def _named(cell: str, column: str, place: str) -> str:
    if not cell.strip():
        raise ValueError(f"{place}: the {column} is empty")
    return cell.strip()


def _split(cell: str, place: str) -> str:
    if cell.strip() not in SPLITS:
        raise ValueError(f"{place}: split {cell.strip()!r}; allowed are {', '.join(SPLITS)}")
    return cell.strip()


def _stratified(
    path: Path, classes: Sequence[str], labels: np.ndarray, fraction: float, seed: int
) -> np.ndarray:
    """Split names per row: `fraction` of every class's rows, chosen by `seed`, to test, the rest to train."""
    rng = np.random.default_rng(seed)
    splits = np.full(len(labels), "train", dtype="<U5")
    for index, name in enumerate(classes):
        rows = rng.permutation(np.flatnonzero(labels == index))
        if len(rows) < 2:
            raise ValueError(f"{path}: label {name!r} has one row, too few for a train and a test split")
        splits[rows[: min(len(rows) - 1, max(1, round(fraction * len(rows))))]] = "test"
    return splits


def _check_every_class(path: Path, classes: Sequence[str], labels: np.ndarray, splits: np.ndarray) -> None:
    for split in ("train", "test"):
        absent = set(range(len(classes))) - set(labels[splits == split].tolist())
        if absent:
            raise ValueError(f"{path}: label {classes[min(absent)]!r} has no row in the {split} split")
