"""Where a value lies on an axis, linear or logarithmic, and which values are labelled."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

MARGIN = 0.06
"""Space beyond the outermost values, as a part of their distance."""
TINY = 1e-300
"""Distances below it are none: floats have too few digits left there."""
BINARY_PREFIXES = ((2**30, "G"), (2**20, "M"), (2**10, "k"))
DECIMAL_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Axis:
    """Maps values from `low` to `high` to pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False
    """Equal ratios, not equal differences, take equal space."""

    def place(self, value: float) -> float:
        """Pixel of a value."""
        measure = math.log if self.is_log else float
        low, high, at = measure(self.low), measure(self.high), measure(value)
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int) -> list[float]:
        """At most about `most` round values within the axis: powers of two on a logarithmic one."""
        return (
            _powers_of_two(self.low, self.high, most)
            if self.is_log
            else _round_values(self.low, self.high, most)
        )


def span(values: Iterable[float], from_zero: bool = False) -> tuple[float, float]:
    """Limits of an axis that holds the values, with a margin; from 0 where asked and no value is below it."""
    found = list(values)
    low, high = min(found), max(found)
    if from_zero and low >= 0:
        return 0.0, high * (1 + MARGIN) if high > TINY else 1.0
    extra = next(e for e in ((high - low) * MARGIN, abs(high) * MARGIN, 1.0) if e > TINY)
    return low - extra, high + extra


def log_span(values: Iterable[float]) -> tuple[float, float]:
    """Limits of a logarithmic axis that holds the values, all above 0, with a margin of equal ratio."""
    found = list(values)
    low, high = min(found), max(found)
    factor = (high / low) ** MARGIN if high > low else 2.0
    return low / factor, high * factor


def decades(low: float, high: float) -> list[float]:
    """Powers of ten within the limits; where they are fewer than three, twice and five times them too."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    tens = [10.0**e for e in exponents if low <= 10.0**e <= high]
    if len(tens) >= 3:
        return tens
    return [m * 10.0**e for e in exponents for m in (1, 2, 5) if low <= m * 10.0**e <= high]


def tick_labels(ticks: list[float]) -> list[str]:
    """Labels with as many decimals as tell the ticks apart, the same for all; thousands as k, M, ..."""
    largest = max(map(abs, ticks), default=0.0)
    if 0 < largest < 1e-3:
        return [f"{tick:.3g}" for tick in ticks]
    scale, prefix = next(((s, p) for s, p in DECIMAL_PREFIXES if largest >= max(s, 1e4)), (1.0, ""))
    step = min((abs(b - a) / scale for a, b in pairwise(ticks)), default=1.0)
    decimals = next((d for d in range(6) if abs(step - round(step, d)) < 1e-9 * max(step, 1e-9)), 6)
    return [f"{tick / scale:,.{decimals}f}{prefix if tick else ''}" for tick in ticks]


def bases_label(bases: float) -> str:
    """A length in bases: 512, 1k, 64k, 1M, where k is 1,024."""
    for scale, prefix in BINARY_PREFIXES:
        if bases >= scale:
            return f"{bases / scale:.4g}{prefix}"
    return f"{bases:.4g}"


def length_label(length: float, units: str) -> str:
    """A length in `bases` or `samples`: only those of DNA are powers of two."""
    return bases_label(length) if units == "bases" else f"{length:,.0f}"


def quantity(value: float, digits: int = 3) -> str:
    """A large number in words of science: 1.4 M, 403 M, 2.1 G."""
    for scale, prefix in DECIMAL_PREFIXES:
        if abs(value) >= scale:
            return f"{value / scale:.{digits}g} {prefix}"
    return f"{value:.{digits}g}"


def _round_values(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / most
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough * 0.999)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _powers_of_two(low: float, high: float, most: int) -> list[float]:
    first, last = math.ceil(math.log2(low) - 1e-9), math.floor(math.log2(high) + 1e-9)
    step = max(1, math.ceil((last - first + 1) / most))
    return [2.0**power for power in range(first, last + 1, step)]
