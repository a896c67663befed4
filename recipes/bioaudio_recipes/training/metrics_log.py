"""metrics.csv and TensorBoard of a run: one row a logged step, without a seam where a run goes on."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from bioaudio_recipes.run_folder import RunFolder

STEP = "step"


class MetricsLog:
    """Collects the values of a step from whoever measured them, then writes them as one row.

    Args:
        folder: of the run.
        columns: names of all values that will be logged, in the order of the file.
        after_step: steps that are already done and stay; later rows, of a run that was killed before its next
            checkpoint, are dropped. None starts the file anew.
        active: False on all ranks but the first, which leave the writing to it.
    """

    def __init__(
        self, folder: RunFolder, columns: Sequence[str], after_step: int | None = None, *, active: bool = True
    ) -> None:
        self.path = folder.metrics
        self.active = active
        self._pending: dict[str, float] = {}
        self.columns = [STEP, *columns]
        if not active:
            return
        kept = [] if after_step is None else _read_until(self.path, after_step)
        earlier = [name for row in kept[:1] for name in row if name != STEP]
        self.columns += [name for name in earlier if name not in columns]
        self._rewrite(kept)
        purge = None if after_step is None else after_step + 1
        self._tensorboard = SummaryWriter(str(folder.tensorboard), purge_step=purge)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add values to the row of `step`; the row is written once a later step logs, or by `flush`.

        Raises:
            ValueError: for a value that is not among the columns.
        """
        if unknown := values.keys() - set(self.columns):
            raise ValueError(f"{', '.join(sorted(unknown))} not among the columns of {self.path}")
        if not self.active:
            return
        if self._pending.get(STEP, step) != step:
            self.flush()
        self._pending |= {STEP: step, **values}
        for name, value in values.items():
            self._tensorboard.add_scalar(name, value, step)

    def flush(self) -> None:
        """Bring everything that was logged to disk."""
        if not self.active:
            return
        if self._pending:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns).writerow(self._pending)
            self._pending = {}
        self._tensorboard.flush()

    def close(self) -> None:
        """Write what is left and close the files."""
        self.flush()
        if self.active:
            self._tensorboard.close()

    def _rewrite(self, rows: Iterable[Mapping[str, str]]) -> None:
        partial = self.path.with_name(self.path.name + ".partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(self.path)


def _read_until(path: Path, step: int) -> list[dict[str, str]]:
    """Rows up to `step`, without a last one that was cut short."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values()]
    return [row for row in rows if row[STEP].isdecimal() and int(row[STEP]) <= step]
