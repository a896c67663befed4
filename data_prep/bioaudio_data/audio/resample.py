"""Changing the sample rate of a stream in constant memory: torchaudio's windowed sinc, block by block.

torchaudio is imported here and nowhere else, and only when a file needs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_KERNEL = 1 << 26
"""Weights of the largest filter bank: rates without a common divisor of size would need gigabytes."""
_SINC_CROSSINGS = 6
"""Half width of the filter in zero crossings, torchaudio's default."""

Samples = NDArray[np.float32]


class _Filter(NamedTuple):
    step: int
    """Input samples in a period of the two rates."""
    phases: int
    """Output samples in a period."""
    margin: int
    """Input samples, whole periods, that an output sample may depend on to either side."""
    apply: Callable[[Samples], Samples]
    """Resample (length,) as if it had zeros around it."""


def resampled_length(length: int, source_rate: int, rate: int) -> int:
    """Samples that `length` samples become: ceil(length * rate / source_rate)."""
    return -(-length * rate // source_rate)


def resample(blocks: Iterable[Samples], source_rate: int, rate: int) -> Iterator[Samples]:
    """Yield a stream of mono blocks at another rate: what resampling it in one piece would give.

    Args:
        blocks: float32 (length,) each, of any lengths.
        source_rate: samples a second of `blocks`.
        rate: samples a second wanted.

    Raises:
        ValueError: for two rates with too small a common divisor.
        OSError: if torchaudio is needed and cannot be imported.
    """
    if source_rate == rate:
        yield from blocks
        return
    kernel = _filter(source_rate, rate)
    step, phases, margin, apply = kernel
    skipped = margin // step * phases
    held = np.zeros(margin, np.float32)  # the samples from `margin` before the first not yet resampled
    received = sent = 0
    for block in blocks:
        received += len(block)
        held = np.concatenate((held, block))
        ready = (len(held) - 2 * margin) // step
        if ready > 0:
            yield apply(held[: ready * step + 2 * margin])[skipped : skipped + ready * phases]
            sent += ready * phases
            held = held[ready * step :]
    rest = resampled_length(received, source_rate, rate) - sent
    yield apply(np.concatenate((held, np.zeros(margin + step, np.float32))))[skipped : skipped + rest]


@cache
def _filter(source_rate: int, rate: int) -> _Filter:
    common = math.gcd(source_rate, rate)
    step, phases = source_rate // common, rate // common
    # 0.99 of the lower of the two Nyquist frequencies is kept, as by torchaudio's default.
    half_width = math.ceil(_SINC_CROSSINGS * step / (0.99 * min(step, phases)))
    if phases * (step + 2 * half_width) > MAX_KERNEL:
        raise ValueError(
            f"cannot resample from {source_rate} to {rate} Hz: the greatest common divisor of the rates is "
            f"only {common}; choose another --sample-rate"
        )
    try:
        import torch
        from torchaudio.transforms import Resample
    except (ImportError, OSError) as error:  # OSError: a build for another build of torch
        raise OSError(
            f"resampling from {source_rate} to {rate} Hz needs torchaudio, which cannot be imported "
            f"beside this torch ({' '.join(str(error).split())[:120]}); "
            "install torchaudio from the package index that torch came from"
        ) from error
    # Weights computed in float64, then rounded: computed in float32, their phases are off by 1e-5.
    transform = Resample(source_rate, rate, dtype=torch.float64).float()

    def apply(samples: Samples) -> Samples:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # two took four times the processor time of one, for blocks of this size
        try:
            with torch.inference_mode():
                return transform(torch.from_numpy(samples)[None])[0].numpy()
        finally:
            torch.set_num_threads(threads)

    return _Filter(step, phases, -(-half_width // step) * step, apply)
