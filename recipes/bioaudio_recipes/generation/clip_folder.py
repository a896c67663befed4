"""A folder of generated clips: audio files written as they are drawn, a table of them, and their settings.

`clips.csv` has a row for each finished clip. A generation that was stopped goes on after its last finished
batch; other settings are refused, so that one folder holds clips of one kind.
"""

from __future__ import annotations

import csv
import json
import resource
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from bioaudio_recipes.run_folder import write_json

TABLE = "clips.csv"
SETTINGS = "generation.json"
ADDED = {"guidance": 1.0}
"""Settings that older folders do not name, and what they were there."""
AudioFormat = Literal["wav", "flac"]


@dataclass(frozen=True)
class ClipRow:
    """One row of the table."""

    clip: int
    """Number of the clip, from 0."""
    file: str
    label: str
    """What the network was asked for; empty without labels."""
    samples: int
    """Drawn samples, a prompt not counted."""
    seconds: float
    log_likelihood: float
    """Of the drawn samples under the network itself (temperature 1, no guidance, all codes), in nats."""
    bits_per_sample: float
    """The same in bits, per sample."""
    flagged: int
    """1 for a clip that has gone wrong."""
    reason: str
    """noise, silence, or empty."""
    rank: int = 0
    """Place among all clips by likelihood per sample, 1 for the likeliest."""


class ClipFolder:
    """Opens a folder to go on with, or begins one.

    Args:
        root: the folder; made if it does not exist.
        settings: everything that the clips depend on.

    Raises:
        ValueError: if the folder holds clips of other settings, or is not of a generation.
    """

    def __init__(self, root: Path, settings: Mapping[str, Any]) -> None:
        self.root = root
        self.rows: dict[int, ClipRow] = {}
        path = root / SETTINGS
        if path.is_file():
            before = read_settings(root)
            for name, value in settings.items():
                if before.get(name) != value:
                    raise ValueError(
                        f"{root} holds clips with {name} = {before.get(name)}, now it is {value}; give the "
                        "same settings to go on, or another --out"
                    )
            self.rows = {row.clip: row for row in _read_table(root / TABLE) if (root / row.file).is_file()}
        elif root.is_dir() and any(root.iterdir()):
            raise ValueError(f"{root} is not empty, and holds no generation; give another --out")
        else:
            root.mkdir(parents=True, exist_ok=True)
            write_json(path, dict(settings))

    def add(self, rows: list[ClipRow]) -> None:
        """Write the table with more rows, all ranked anew."""
        self.rows |= {row.clip: row for row in rows}
        likeliest = sorted(self.rows.values(), key=lambda row: (row.bits_per_sample, row.clip))
        for rank, row in enumerate(likeliest, start=1):
            self.rows[row.clip] = replace(row, rank=rank)
        partial = self.root / (TABLE + ".partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(ClipRow)])
            writer.writeheader()
            writer.writerows(asdict(self.rows[clip]) for clip in sorted(self.rows))
        partial.replace(self.root / TABLE)


class ClipWriter:
    """Files of the clips of a batch, open side by side; they get their names when the batch is whole.

    Args:
        folder: where to.
        names: of the files.
        sample_rate: samples a second.
        audio_format: of the files, 16 bits a sample.
    """

    def __init__(self, folder: Path, names: list[str], sample_rate: int, audio_format: AudioFormat) -> None:
        self._paths = [folder / name for name in names]
        self._rate = sample_rate
        self._format = audio_format.upper()
        self._stack = ExitStack()
        self._files: list[soundfile.SoundFile] = []

    def __enter__(self) -> ClipWriter:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = len(self._paths) + 256
        if soft < wanted and hard in (resource.RLIM_INFINITY, max(hard, wanted)):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        for path in self._paths:
            file = soundfile.SoundFile(_partial(path), "w", self._rate, 1, "PCM_16", format=self._format)
            self._files.append(self._stack.enter_context(file))
        return self

    def write(self, samples: NDArray[np.float32]) -> None:
        """The next samples of every clip, (clips, samples)."""
        for file, row in zip(self._files, samples, strict=True):
            file.write(row)

    def __exit__(self, kind: Any, *error: Any) -> None:
        self._stack.close()
        for path in self._paths:
            if kind is None:
                Path(_partial(path)).replace(path)
            else:
                Path(_partial(path)).unlink(missing_ok=True)


def _partial(path: Path) -> str:
    return f"{path}.partial"


def read_settings(folder: Path) -> dict[str, Any]:
    """What the clips of a folder depend on.

    Raises:
        FileNotFoundError: if the folder does not say.
        ValueError: if its file is damaged.
    """
    path = folder / SETTINGS
    try:
        return ADDED | dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove the folder to begin anew") from error


def _read_table(path: Path) -> list[ClipRow]:
    if not path.is_file():
        return []
    kinds = {"int": int, "str": str, "float": float}
    with path.open(newline="", encoding="utf-8") as file:
        try:
            return [
                ClipRow(**{field.name: kinds[str(field.type)](row[field.name]) for field in fields(ClipRow)})
                for row in csv.DictReader(file)
            ]
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}); remove the folder to begin anew") from error
