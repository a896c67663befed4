"""Windows of one length over the clips of a store: what a model trains on and is scored on, as codes.

| placement | windows of a clip of n samples | where |
|---|---|---|
| `tile` | ceil(n / length), or floor with `short="skip"` | side by side from the first sample: every sample
once | | `random` | max(1, floor(n / length)) | window j begins anywhere in the j-th of equal shares of all
starts |

The last window of a tiled clip, and the only one of a clip shorter than the window, is filled up with the
code of silence, and its mask says which samples are real; `short="skip"` leaves both out. Window i is a pure
function of (seed, epoch, i), so neither the order of reading nor the number of workers can matter.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bioaudio_data.audio.quantiser import Quantiser
from bioaudio_data.audio.store import WaveformStore
from bioaudio_data.augment import counter_hash

Placement = Literal["tile", "random"]
Short = Literal["pad", "skip"]


class AudioBatch(NamedTuple):
    """Windows side by side."""

    codes: NDArray[np.integer]
    """(batch, length) uint8 up to 8 bits, else int32; the code of silence where `mask` is False."""
    mask: NDArray[np.bool_]
    """(batch, length) whether each sample is real."""
    labels: NDArray[np.int64]
    """(batch,) class number of each window's clip in the store's `index.labels`; -1 for none."""


class AudioWindows:
    """The windows of one split of a store; see the module's table.

    Args:
        store: the clips.
        length: samples in a window.
        split: train, valid, test, or None for all clips.
        placement: where windows begin.
        short: what to do with windows that no clip fills.
        quantiser: how samples become codes; the store's own, if None.

    Raises:
        ValueError: for a length below 1, an unknown placement, an empty split, or, with `short="skip"`, a
            split without a clip of at least `length` samples.
    """

    def __init__(
        self,
        store: WaveformStore,
        length: int,
        *,
        split: str | None = None,
        placement: Placement = "tile",
        short: Short = "pad",
        quantiser: Quantiser | None = None,
    ) -> None:
        for name, value, allowed in (("placement", placement, Placement), ("short", short, Short)):
            if value not in get_args(allowed):
                raise ValueError(f"{name} must be one of {', '.join(get_args(allowed))}; got {value!r}")
        if length < 1:
            raise ValueError(f"a window must have at least 1 sample, got length {length}")
        clips = store.of_split(split)
        if not len(clips):
            raise ValueError(f"waveform store {store.path} has no clip in split {split!r}")
        self.store = store
        self.length = length
        self.placement: Placement = placement
        self.quantiser = quantiser or store.index.quantiser
        lengths = np.array([store.clips[clip].length for clip in clips], np.int64)
        numbers = lengths // length
        if short == "pad":
            numbers = -(-lengths // length) if placement == "tile" else np.maximum(numbers, 1)
        if not numbers.sum():
            raise ValueError(
                f"no clip of split {split or 'any'} of {store.path} has {length:,} samples: the longest has "
                f"{lengths.max():,}; choose a shorter window, or pad short clips"
            )
        self._clips, self._lengths, self._numbers = clips, lengths, numbers
        self._stops = np.cumsum(numbers)

    def __len__(self) -> int:
        return int(self._stops[-1])

    def locate(
        self, indices: ArrayLike, *, seed: int = 0, epoch: int = 0
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Where windows lie.

        Args:
            indices: (batch,) window numbers from 0 to len - 1.
            seed: of the run; matters for placement `random` only.
            epoch: pass over the windows; likewise.

        Returns:
            Number of the clip in the store, first sample, and samples that the clip has there, each (batch,).

        Raises:
            IndexError: for a number outside 0 .. len - 1.
        """
        numbers = np.asarray(indices, np.int64)
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < len(self)):
            raise IndexError(f"window numbers must lie in 0 .. {len(self) - 1}")
        place = np.searchsorted(self._stops, numbers, side="right")
        within = numbers - (self._stops[place] - self._numbers[place])
        starts = within * self.length
        if self.placement == "random":
            choices = np.maximum(self._lengths[place] - self.length, 0) + 1
            first, end = (choices * w // self._numbers[place] for w in (within, within + 1))
            draw = (counter_hash(seed, epoch, numbers) >> np.uint64(32)).astype(np.int64)
            starts = first + ((draw * (end - first)) >> 32)
        return self._clips[place], starts, np.minimum(self._lengths[place] - starts, self.length)

    def read(self, indices: ArrayLike, *, seed: int = 0, epoch: int = 0) -> AudioBatch:
        """The windows numbered `indices`; arguments and errors as `locate`."""
        clips, starts, sizes = self.locate(indices, seed=seed, epoch=epoch)
        kind = np.uint8 if self.quantiser.bits <= 8 else np.int32
        codes = np.full((len(clips), self.length), self.quantiser.zero, kind)
        for row, clip, start, size in zip(
            codes, clips.tolist(), starts.tolist(), sizes.tolist(), strict=True
        ):
            row[:size] = self.encode(clip, start, start + size)
        mask = np.arange(self.length) < sizes[:, None]
        return AudioBatch(codes, mask, self.store.labels[clips])

    def encode(self, clip: int, start: int, end: int) -> NDArray[np.integer]:
        """Codes of samples `[start, end)` of a clip, which are the chunk of a quantiser per chunk: (end -
        start,)."""
        known = self.store.clips[clip]
        span = (known.low, known.high) if self.quantiser.scale == "file" else None
        return self.quantiser.encode(self.store.samples(clip, start, end), span)
