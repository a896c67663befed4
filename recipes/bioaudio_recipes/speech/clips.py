"""Clips to be scored: real ones out of a store, as models see them, and generated ones out of a folder.

A folder of generated clips holds wav or flac files of any rate. With a `clips.csv` in it, the clips are those
of its rows: `file` (path below the folder), and any of `label` (what the model was asked for),
`log_likelihood` (of the clip under the model) and `flagged` (1 where it has gone wrong). Other columns, and
files without a row, are left alone.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bioaudio_data.audio import WaveformStore
from bioaudio_data.audio.decode import mono_blocks, read_header
from bioaudio_data.audio.folder import find_audio
from bioaudio_data.audio.resample import resample
from numpy.typing import NDArray

TABLE = "clips.csv"
_FLAGS = {"": False, "0": False, "false": False, "1": True, "true": True}


@dataclass(frozen=True, kw_only=True)
class GeneratedClip:
    """One file, and what its row of the table says."""

    path: Path
    label: str | None = None
    log_likelihood: float | None = None
    """In nats."""
    flagged: bool = False

    @property
    def sample_rate(self) -> int:
        """Of the file."""
        return read_header(self.path).rate

    def read(self, sample_rate: int) -> NDArray[np.float32]:
        """Its samples at a rate, mono, float32 (length,).

        Raises:
            ValueError: if the file is damaged.
        """
        blocks = resample(mono_blocks(self.path), self.sample_rate, sample_rate)
        return np.concatenate([*blocks])


def real_clips(store: WaveformStore, split: str) -> Iterator[NDArray[np.float32]]:
    """Clips of a split through the store's quantiser and back, in -1 .. 1 where it stretches them.

    Generated clips are made of codes; against real ones of full precision a classifier would hear the
    quantiser's noise, and a score measure it.
    """
    return (decoded(store, int(clip)) for clip in store.of_split(split))


def decoded(store: WaveformStore, clip: int) -> NDArray[np.float32]:
    """One clip through the store's quantiser and back, (length,)."""
    quantiser, about = store.index.quantiser, store.clips[clip]
    span = (about.low, about.high) if quantiser.scale == "file" else None
    return quantiser.decode(quantiser.encode(store.samples(clip), span))


def generated_clips(folder: Path, least: int = 2) -> list[GeneratedClip]:
    """The clips of a folder: in the order of its table, else in natural order of their names.

    Args:
        folder: the files, and perhaps their table.
        least: how many clips there must be; a set of 2 can be scored.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds fewer clips, or its table is damaged or not of these files.
    """
    table = folder / TABLE
    if table.is_file():
        clips = _read_table(table, folder)
        if gone := next((clip.path for clip in clips if not clip.path.is_file()), None):
            raise ValueError(f"{table} has a row for {gone}, which is no file")
    else:
        clips = [GeneratedClip(path=folder / file) for file in find_audio(folder)[0]]
    if len(clips) < least:
        raise ValueError(f"{folder} holds {len(clips)} clip(s); {least} or more are needed")
    return clips


def most_likely(clips: list[GeneratedClip], low: float, high: float) -> list[int]:
    """Places of the clips that are left without the least likely share `low` and the most likely `high`.

    The published protocol drops 0.4 and 0.05 of the clips.
    """
    ranked = sorted(range(len(clips)), key=lambda i: (clips[i].log_likelihood or 0.0, i))
    return sorted(ranked[int(low * len(clips)) : len(clips) - int(high * len(clips))])


def _read_table(path: Path, folder: Path) -> list[GeneratedClip]:
    rows: dict[str, GeneratedClip] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines, strict=True)
            if "file" not in (reader.fieldnames or ()):
                raise ValueError(f"{path}: no column file; the header has {reader.fieldnames}")
            for row in reader:
                place = f"{path}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise ValueError(f"{place}: not as many cells as the header")
                if row["file"] in rows:
                    raise ValueError(f"{place}: {row['file']} has a row already")
                rows[row["file"]] = _clip(row, folder, place)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV file in UTF-8: {error}") from error
    return list(rows.values())


def _clip(row: dict[str, str], folder: Path, place: str) -> GeneratedClip:
    cell, flag = row.get("log_likelihood", ""), row.get("flagged", "").strip().lower()
    try:
        likelihood = float(cell) if cell else None
    except ValueError as error:
        raise ValueError(f"{place}: log_likelihood {cell!r} is no number") from error
    if likelihood is not None and math.isnan(likelihood):
        raise ValueError(f"{place}: log_likelihood is NaN")
    if flag not in _FLAGS:
        raise ValueError(f"{place}: flagged is {flag!r}; allowed are 0, 1, false, true and nothing")
    return GeneratedClip(
        path=folder / row["file"],
        label=row.get("label") or None,
        log_likelihood=likelihood,
        flagged=_FLAGS[flag],
    )
