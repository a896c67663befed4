"""A base and the bases before it as one integer, made so that sorting puts equal contexts side by side.

A key holds the context, three bits a base, most recent base first, and in its last two bits the base itself:

    | x[i-1] | x[i-2] | ... | x[i-order] | x[i] |

so the contexts of fewer bases are the keys' prefixes: one sorted array serves every order. A context base is
1..4; 0 means that there is none (the sequence began there, or an N broke it), and so is all before it.
"""

from __future__ import annotations

import numba
import numpy as np
from bioaudio_data.vocabulary import DNA

BREAK = 4
"""Symbol of whatever is not A, C, G or T: it is not predicted and no context reaches across it."""
BASE_BITS = 3
NEXT_BITS = 2
MAX_ORDER = (64 - NEXT_BITS) // BASE_BITS

_SYMBOL = np.full(256, BREAK, dtype=np.uint8)
_SYMBOL[DNA.encode("ACGT")] = np.arange(4, dtype=np.uint8)


def symbols_of(tokens: np.ndarray) -> np.ndarray:
    """Token ids (uint8) to symbols: A C G T are 0 1 2 3 (the complement of x is 3 - x), the rest `BREAK`."""
    return _SYMBOL[tokens]


def reverse_complement(symbols: np.ndarray) -> np.ndarray:
    """The other strand of a sequence of symbols, read in its own direction."""
    return np.where(symbols < BREAK, 3 - symbols, BREAK).astype(np.uint8)[::-1]


def context_keys(
    symbols: np.ndarray, order: int, scored: np.ndarray | None = None, out: np.ndarray | None = None
) -> np.ndarray:
    """The key of every base of a sequence, in its order; positions that are `BREAK` have none.

    Args:
        symbols: (length,) uint8, 0..3 or `BREAK`.
        order: longest context to keep, 1 to `MAX_ORDER` bases.
        scored: (length,) bool; where False the base serves as context only and gets no key.
        out: uint64 array to write to the beginning of, for a caller that collects many sequences.

    Returns:
        (bases,) uint64, a part of `out` where that is given.

    Raises:
        ValueError: if the order does not fit in a key.
    """
    if not 1 <= order <= MAX_ORDER:
        raise ValueError(f"counting models hold contexts of 1 to {MAX_ORDER} bases, not {order}")
    wanted = symbols < BREAK if scored is None else (symbols < BREAK) & scored
    bases = int(wanted.sum())
    keys = np.empty(bases, dtype=np.uint64) if out is None else out[:bases]
    _fill_keys(np.ascontiguousarray(symbols), wanted, order, keys)
    return keys


def prefix_shift(longest: int, order: int) -> int:
    """Bits to shift away from a key made with order `longest` to leave its context of `order` bases."""
    return BASE_BITS * (longest - order) + NEXT_BITS


@numba.njit(cache=True)
def _fill_keys(symbols: np.ndarray, wanted: np.ndarray, order: int, keys: np.ndarray) -> None:
    newest = np.uint64(BASE_BITS * (order - 1))
    context = np.uint64(0)
    filled = 0
    for i in range(len(symbols)):
        if wanted[i]:
            keys[filled] = (context << np.uint64(NEXT_BITS)) | np.uint64(symbols[i])
            filled += 1
        if symbols[i] == BREAK:
            context = np.uint64(0)
        else:
            context = (context >> np.uint64(BASE_BITS)) | (np.uint64(symbols[i] + 1) << newest)
