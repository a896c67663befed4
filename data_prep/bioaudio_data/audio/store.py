"""Reading a waveform store: any stretch of any clip, straight from a memory map."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bioaudio_data.audio.index import INT16_SCALE, REMAKE, SAMPLE_FILES, SAMPLE_TYPES, AudioIndex, Clip
from bioaudio_data.store_folder import map_bytes, verify_bytes


class WaveformStore:
    """Mono clips at one sample rate on disk, memory-mapped read-only.

    There is no file position and no cache, so any number of threads and forked workers can read one store at
    once. Pickling keeps only the path: a spawned worker maps the file for itself.
    """

    def __init__(self, path: Path, index: AudioIndex) -> None:
        """Map the samples that `index` describes; `WaveformStore.open` is the way in."""
        self.path = path
        self.index = index
        kind = SAMPLE_TYPES[index.sample_format]
        self._file = path / SAMPLE_FILES[index.sample_format]
        self._bytes = map_bytes(self._file, index.samples * kind.itemsize, REMAKE)
        self._samples = self._bytes.view(kind)

    @classmethod
    def open(cls, path: Path | str) -> WaveformStore:
        """Open a store's folder; checks format and sizes, not the hash (see `verify`).

        Raises:
            FileNotFoundError: if there is no store at `path`.
            ValueError: if it is damaged, or of another format version.
        """
        folder = Path(path).resolve()
        return cls(folder, AudioIndex.read(folder))

    @property
    def clips(self) -> tuple[Clip, ...]:
        """The clips, in natural order of their names; everywhere a clip's number is its place here."""
        return self.index.clips

    @property
    def sample_rate(self) -> int:
        """Samples a second."""
        return self.index.sample_rate

    @property
    def seconds(self) -> float:
        """Length of all clips together."""
        return self.index.samples / self.sample_rate

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Class number of every clip, (clips,); -1 where it has no label."""
        numbers = {label: i for i, label in enumerate(self.index.labels)}
        return np.array([-1 if clip.label is None else numbers[clip.label] for clip in self.clips])

    def of_split(self, split: str | None) -> NDArray[np.int64]:
        """Numbers of the clips of a split, or of all clips for None."""
        return np.array([i for i, clip in enumerate(self.clips) if split in (None, clip.split)], np.int64)

    def samples(self, clip: int, start: int = 0, end: int | None = None) -> NDArray[np.float32]:
        """Samples `[start, end)` of clip number `clip`, to its end for None: float32 (end - start,) in -1 ..
        1.

        Raises:
            IndexError: if there is no such clip.
            ValueError: if the stretch is not within it.
        """
        if not 0 <= clip < len(self.clips):
            raise IndexError(f"clip {clip} of {len(self.clips)}")
        offset, length = self.clips[clip].offset, self.clips[clip].length
        end = length if end is None else end
        if not 0 <= start <= end <= length:
            raise ValueError(
                f"samples {start} to {end} are not within clip {self.clips[clip].name} of {length}"
            )
        stored = self._samples[offset + start : offset + end]
        scale = 1 / INT16_SCALE if self.index.sample_format == "int16" else 1.0
        return stored.astype(np.float32) * np.float32(scale)

    def verify(self, *, progress: bool = False) -> None:
        """Compare every byte with the hash in the index.

        Raises:
            ValueError: naming the file, if they differ.
        """
        verify_bytes(self._bytes, self.index.sha256, self._file, REMAKE, progress=progress)

    def __repr__(self) -> str:
        """The path and what is in it."""
        return f"WaveformStore({str(self.path)!r}: {len(self.clips):,} clips, {self.seconds:,.1f} s)"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle as a path, with the hash of what was opened."""
        return _reopen, (self.path, self.index.sha256)


def _reopen(path: Path, sha256: str) -> WaveformStore:
    store = WaveformStore.open(path)
    if store.index.sha256 != sha256:
        raise ValueError(
            f"waveform store {path} was overwritten while a job was using it; start the job again"
        )
    return store
