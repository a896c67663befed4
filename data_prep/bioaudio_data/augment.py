"""Random reverse complement and shift of windows, as a pure function of (seed, epoch, index)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

MAX_SHIFT = 2**31 - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is done to training windows. Nothing is remembered between draws: their order cannot matter.

    Raises:
        ValueError: for a probability outside 0 .. 1 or a shift outside 0 .. 2^31 - 1.
    """

    reverse_complement: float = 0.5
    """Probability that a window is read from the opposite strand."""
    max_shift: int = 0
    """Windows move by a whole number of bases, uniform in -max_shift .. max_shift."""

    def __post_init__(self) -> None:
        if not 0 <= self.reverse_complement <= 1:
            raise ValueError(f"reverse_complement must lie between 0 and 1, got {self.reverse_complement}")
        if not 0 <= self.max_shift <= MAX_SHIFT:
            raise ValueError(f"max_shift must be 0 to {MAX_SHIFT} bases, got {self.max_shift}")

    @overload
    def draw(self, seed: int, epoch: int, index: int) -> tuple[bool, int]: ...
    @overload
    def draw(
        self, seed: int, epoch: int, index: NDArray[np.integer]
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64]]: ...
    def draw(
        self, seed: int, epoch: int, index: int | NDArray[np.integer]
    ) -> tuple[bool, int] | tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Whether to take the reverse complement of window `index`, and by how many bases to shift it.

        Args:
            seed: of the run, any integer.
            epoch: pass over the windows, any integer.
            index: number of a window, or an array of any shape of them.

        Returns:
            The two draws, each in the shape of `index`: reverse complement (bool) and shift (int64).
        """
        bits = counter_hash(seed, epoch, np.asarray(index))
        # The upper half decides the strand, the lower half the shift, so the two are independent.
        flip = (bits >> np.uint64(32)).astype(np.float64) < self.reverse_complement * 2.0**32
        choices = np.uint64(2 * self.max_shift + 1)
        steps = ((bits & np.uint64(0xFFFFFFFF)) * choices) >> np.uint64(32)
        shift = steps.astype(np.int64) - self.max_shift
        return (flip, shift) if isinstance(index, np.ndarray) else (bool(flip), int(shift))


def counter_hash(seed: int, epoch: int, index: NDArray[np.integer]) -> NDArray[np.uint64]:
    """64 random bits for each `index`: SplitMix64 (Steele, Lea & Flood, 2014) keyed by seed and epoch.

    Returns:
        uint64 in the shape of `index`; the same arguments always give the same bits.
    """
    state = np.zeros((), dtype=np.uint64)
    for counter in (np.asarray(seed % 2**64, np.uint64), np.asarray(epoch % 2**64, np.uint64), index):
        state = split_mix_64(state, counter.astype(np.uint64))
    return state


def split_mix_64(state: NDArray[np.uint64], counter: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Output number `counter`, from 0, of the SplitMix64 generator seeded with `state`."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        bits = np.asarray(state + (counter + np.uint64(1)) * _GOLDEN)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(bits ^ (bits >> np.uint64(31)))
