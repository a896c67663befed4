"""What followed each context in the training bases: a sorted array of keys, read for all orders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np

from bioaudio_recipes.counting.contexts import (
    BASE_BITS,
    BREAK,
    context_keys,
    prefix_shift,
    reverse_complement,
)


class Evidence(NamedTuple):
    """What the training bases say about each queried base, given its context of one order."""

    seen: np.ndarray
    """(queries,) uint32: how often this very base followed this context."""
    total: np.ndarray
    """(queries,) uint32: how often any base followed it; 0 for a context never met, or cut short by an N."""
    distinct: np.ndarray
    """(queries,) uint8: how many of the four bases followed it."""


class ContextTable:
    """Every training base with its context, both strands, sorted: 16 bytes a base of the sequences."""

    def __init__(self, sequences: Sequence[np.ndarray], order: int) -> None:
        """Count both strands of the sequences.

        Args:
            sequences: symbols (see `symbols_of`), one array a piece of genome; no context spans two.
            order: longest context, in bases.

        Raises:
            ValueError: if the order does not fit, or there is no base to count.
        """
        self.order = order
        self._keys = np.empty(2 * sum(int((sequence < BREAK).sum()) for sequence in sequences), np.uint64)
        if not len(self._keys):
            raise ValueError("the training split has no A, C, G or T to count")
        filled = 0
        for forward in sequences:
            for strand in (forward, reverse_complement(forward)):
                filled += len(context_keys(strand, order, out=self._keys[filled:]))
        self._keys.sort()

    def __len__(self) -> int:
        """Counted bases, both strands."""
        return len(self._keys)

    def evidence(self, queries: np.ndarray, order: int) -> Evidence:
        """Look up contexts of `order` bases, 0 to the table's own.

        Args:
            queries: (queries,) uint64 keys made with the table's order, **sorted**.
            order: bases of context to use.
        """
        found = Evidence(
            np.empty(len(queries), np.uint32),
            np.empty(len(queries), np.uint32),
            np.empty(len(queries), np.uint8),
        )
        _merge(self._keys, queries, prefix_shift(self.order, order), order > 0, *found)
        return found


@numba.njit(cache=True)
def _merge(
    keys: np.ndarray,
    queries: np.ndarray,
    shift_bits: int,
    has_context: bool,
    seen: np.ndarray,
    total: np.ndarray,
    distinct: np.ndarray,
) -> None:
    """Walk two sorted arrays once; queries and keys that share a prefix meet."""
    shift = np.uint64(shift_bits)
    oldest_base = np.uint64((1 << BASE_BITS) - 1)
    counts = np.zeros(4, dtype=np.uint32)
    k = 0
    q = 0
    while q < len(queries):
        prefix = queries[q] >> shift
        k = _first_not_below(keys, k, prefix << shift)
        counts[:] = 0
        while k < len(keys) and keys[k] >> shift == prefix:
            counts[keys[k] & np.uint64(3)] += np.uint32(1)
            k += 1
        if has_context and prefix & oldest_base == 0:
            counts[:] = 0
        while q < len(queries) and queries[q] >> shift == prefix:
            seen[q] = counts[queries[q] & np.uint64(3)]
            total[q] = counts.sum()
            distinct[q] = (counts > 0).sum()
            q += 1


@numba.njit(cache=True)
def _first_not_below(keys: np.ndarray, start: int, value: np.uint64) -> int:
    """First index from `start` whose key is not below `value`: doubling steps, then bisection."""
    step = 1
    low = start
    while low + step < len(keys) and keys[low + step] < value:
        low += step
        step *= 2
    high = min(low + step, len(keys))
    while low < high:
        middle = (low + high) // 2
        if keys[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low
