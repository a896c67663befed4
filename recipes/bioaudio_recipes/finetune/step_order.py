"""The optimizer steps of a run in their order, from any of them on."""

from __future__ import annotations

from collections.abc import Iterator


class StepOrder:
    """Numbers `start` to `steps - 1`; the order that a `ResumableLoader` of `StepBatches` follows."""

    def __init__(self, steps: int, seed: int) -> None:
        self.steps = steps
        self.seed = seed
        self.start = 0

    def __len__(self) -> int:
        """Steps of the whole run, those before `start` included."""
        return self.steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.steps))
