"""Converting many files in several processes, in batches of a few megabytes, with their order kept."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from bioaudio_data.audio.batch import Batch, Outcome, convert_batch
from bioaudio_data.audio.index import SampleFormat

BATCH_BYTES = 16 << 20
BATCH_FILES = 256
PROCESS_BYTES = 256 << 20
"""A process takes seconds to begin: another one is worth it for so much more, or for `PROCESS_FILES` more."""
PROCESS_FILES = 8192


def convert_files(
    files: Sequence[Path],
    sample_rate: int,
    sample_format: SampleFormat,
    folder: Path,
    *,
    workers: int | None,
    progress: bool,
) -> Iterator[tuple[Path, list[Outcome]]]:
    """Convert files batch by batch, in their order.

    Args:
        files: the audio files.
        sample_rate: samples a second wanted.
        sample_format: type of the samples wanted.
        folder: where the parts go.
        workers: processes; as many as are worth starting, at most one for each CPU core, if None.
        progress: show a bar on stderr, if that is a terminal.

    Returns:
        For each batch, the file of its samples, which is the caller's to remove, and what became of each of
        its files, in order.

    Raises:
        OSError: if a process is killed, or for what stops any of them but bad files.
    """
    sizes = [path.stat().st_size for path in files]
    shares = list(_shares(sizes))
    batches = [
        Batch(tuple(files[begin:end]), sample_rate, sample_format, folder / f"part-{begin}")
        for begin, end in shares
    ]
    worth = 1 + sum(sizes) // PROCESS_BYTES + len(files) // PROCESS_FILES
    count = min(len(batches), workers or min(worth, _usable_cores()))
    quiet = None if progress else True  # None: only on a terminal
    with tqdm(
        total=sum(sizes), unit="B", unit_scale=True, desc="converting", leave=False, disable=quiet
    ) as bar:
        for (begin, end), batch, outcomes in zip(shares, batches, _outcomes(batches, count), strict=True):
            yield batch.part, outcomes
            bar.update(sum(sizes[begin:end]))


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shares(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of files of a few megabytes: begin and end of each."""
    begin = total = 0
    for i, size in enumerate(sizes):
        if i > begin and (total + size > BATCH_BYTES or i - begin == BATCH_FILES):
            yield begin, i
            begin, total = i, 0
        total += size
    yield begin, len(sizes)


def _outcomes(batches: Sequence[Batch], workers: int) -> Iterator[list[Outcome]]:
    """Outcomes of the batches in order; not many more batches are begun than are taken."""
    if workers == 1:
        yield from map(convert_batch, batches)
        return
    # Ctrl-C reaches every process of a terminal: it is the parent's to answer, the others finish their batch.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN))
    waiting: deque[Future[list[Outcome]]] = deque()
    try:
        for batch in batches:
            waiting.append(pool.submit(convert_batch, batch))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise OSError(
            "a process that converts audio was killed; try --workers 1, or free some memory"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
