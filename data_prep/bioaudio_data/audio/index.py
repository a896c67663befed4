"""`index.json` of a waveform store: what the samples beside it are, and where they came from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from bioaudio_data.audio.quantiser import Quantiser
from bioaudio_data.audio.splits import SPLITS
from bioaudio_data.store_folder import INDEX_FILE

FORMAT = "bioaudio-audio"
FORMAT_VERSION = 1
REMAKE = "bioaudio prepare-audio"
SampleFormat = Literal["int16", "float32"]
SAMPLE_FILES: dict[SampleFormat, str] = {"int16": "samples.i16", "float32": "samples.f32"}
SAMPLE_TYPES: dict[SampleFormat, np.dtype[Any]] = {"int16": np.dtype("<i2"), "float32": np.dtype("<f4")}
"""Little-endian, whatever the machine."""
INT16_SCALE = 32768.0
"""A stored int16 is the sample times this, as in a 16-bit file."""


@dataclass(frozen=True)
class Clip:
    """One file of the source folder: samples `offset` to `offset + length` of the store."""

    name: str
    """Path below the source folder."""
    length: int
    """Samples, at the store's rate."""
    offset: int
    low: float
    """Least sample, in -1 .. 1: with `high`, what a quantiser per file scales by."""
    high: float
    """Greatest sample."""
    label: str | None
    speaker: str | None
    split: str
    """train, valid or test."""
    sha256: str
    """Of the source file's bytes."""


class Skipped(NamedTuple):
    """A file that was left out."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class AudioIndex:
    """Content of `index.json`."""

    source: str
    """Name of the folder that was converted."""
    sample_rate: int
    """Samples a second."""
    sample_format: SampleFormat
    """Type of the stored samples."""
    quantiser: Quantiser
    """How models shall see the samples, unless told otherwise; the store itself keeps them whole."""
    labels: tuple[str, ...]
    """All labels; a label's class number is its place here."""
    clips: tuple[Clip, ...]
    """In natural order of their names; clip i + 1 begins where clip i ends."""
    clipped: int
    """Samples beyond -1 .. 1 that int16 could not hold, such as resampling makes at loud edges."""
    skipped: tuple[Skipped, ...]
    """Files left out as bad (`--skip-bad`)."""
    sha256: str
    """Of the file of samples."""

    @property
    def samples(self) -> int:
        """Samples in the store."""
        return sum(clip.length for clip in self.clips)

    def write(self, folder: Path) -> None:
        """Write `index.json`, a line a clip, into a folder that nobody reads yet."""
        head = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "source": self.source,
            "sample_rate": self.sample_rate,
            "sample_format": self.sample_format,
            "quantiser": self.quantiser.to_dict(),
            "labels": self.labels,
            "clipped": self.clipped,
            "skipped": self.skipped,
            "sha256": self.sha256,
            "clip_columns": [field.name for field in fields(Clip)],
        }
        rows = ",\n".join(json.dumps(astuple(clip)) for clip in self.clips)
        text = json.dumps(head, indent=1).removesuffix("\n}")
        (folder / INDEX_FILE).write_text(f'{text},\n "clips": [\n{rows}\n]}}\n', encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> AudioIndex:
        """Read and check `index.json`.

        Raises:
            FileNotFoundError: if the folder or the file is missing.
            ValueError: if the file is not an index of this format version.
        """
        path = folder / INDEX_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} is no waveform store: no {INDEX_FILE} in it; make one with `{REMAKE}`"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            _check_format(path, content)
            return cls(
                source=content["source"],
                sample_rate=content["sample_rate"],
                sample_format=content["sample_format"],
                quantiser=Quantiser(**content["quantiser"]),
                labels=tuple(content["labels"]),
                clips=_clips(content["clip_columns"], content["clips"]),
                clipped=content["clipped"],
                skipped=tuple(Skipped(*row) for row in content["skipped"]),
                sha256=content["sha256"],
            )
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}); make the store again") from error


def _clips(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> tuple[Clip, ...]:
    clips = tuple(Clip(**dict(zip(columns, row, strict=True))) for row in rows)
    end = 0
    for clip in clips:
        if clip.offset != end or clip.length < 1 or clip.split not in SPLITS:
            raise TypeError(f"clip {clip.name} does not begin where the one before it ends, or has no split")
        end += clip.length
    return clips


def _check_format(path: Path, content: Any) -> None:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is not the index of a waveform store; make one with `{REMAKE}`")
    if content["version"] != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {content['version']}; this release reads version {FORMAT_VERSION}: "
            f"make the store again with `{REMAKE} --overwrite`"
        )
    if content["sample_format"] not in get_args(SampleFormat):
        raise KeyError(f"sample format {content['sample_format']}")
