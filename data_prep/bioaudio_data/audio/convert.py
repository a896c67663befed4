"""Convert a folder of audio files to a waveform store: in parallel, constant memory, whole or not at all.

Samples are kept as int16 where no source has more than 16 bits a sample (lossy formats count as such): a
16-bit mono file at the store's rate is kept bit for bit, and what is mixed down or resampled is rounded once.
If any source has more bits, all are kept as float32.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Literal, get_args

from tqdm import tqdm

from bioaudio_data.atomic_folder import atomic_folder, check_space
from bioaudio_data.audio.batch import Batch, Converted, convert_batch
from bioaudio_data.audio.decode import EXTENSIONS, Header, read_header
from bioaudio_data.audio.folder import find_audio
from bioaudio_data.audio.index import SAMPLE_FILES, SAMPLE_TYPES, AudioIndex, Clip, SampleFormat, Skipped
from bioaudio_data.audio.quantiser import Quantiser
from bioaudio_data.audio.resample import resampled_length
from bioaudio_data.audio.splits import SplitConfig, natural_key, split_files
from bioaudio_data.audio.store import WaveformStore
from bioaudio_data.audio.tags import TagConfig, Tags, read_tags
from bioaudio_data.store_folder import BLOCK_BYTES, check_out

BATCH_BYTES = 16 << 20
BATCH_FILES = 256


def convert_audio(
    folder: Path,
    out: Path,
    *,
    sample_rate: int,
    tags: TagConfig | None = None,
    split: SplitConfig | None = None,
    quantiser: Quantiser | None = None,
    sample_format: Literal["auto", "int16", "float32"] = "auto",
    skip_bad: bool = False,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> WaveformStore:
    """Write every wav, flac, ogg and mp3 file below a folder into one store: mono, at one rate, in natural
    order.

    Bad is a file that is empty, cut short, damaged, silent (all samples equal: no scale fits it), holds NaN
    or infinity, has a label or speaker missing that `tags` asks for, or an extension that is not known.

    Args:
        folder: the files, in folders of any depth.
        out: folder of the store; it appears only when the store is complete.
        sample_rate: samples a second of the store.
        tags: where labels and speakers come from.
        split: how files are divided into train, valid and test.
        quantiser: kept in the index for the models that will read the store.
        sample_format: int16, float32, or whichever keeps the sources.
        skip_bad: leave bad files out and list them in the index, instead of stopping at the first.
        workers: processes; one for each CPU core where there is work for it, if None.
        overwrite: replace an older store at `out` in one step.
        progress: show a bar on stderr, if that is a terminal.

    Raises:
        FileNotFoundError: if the folder, or a list or table that was asked for, is missing.
        FileExistsError: if `out` exists, without `overwrite`, or is no waveform store.
        ValueError: naming the file, at anything bad (above) without `skip_bad`; or if no file is left.
        OSError: if the disk is full, or torchaudio is needed and cannot be imported.
    """
    folder, out = Path(folder), Path(out).resolve()
    tags, split = tags or TagConfig(), split or SplitConfig()
    if sample_rate < 1:
        raise ValueError(f"--sample-rate must be 1 Hz or more, got {sample_rate}")
    if workers is not None and workers < 1:
        raise ValueError(f"--workers must be 1 or more, got {workers}")
    if sample_format not in ("auto", *get_args(SampleFormat)):
        raise ValueError(f"--sample-format must be auto, int16 or float32; got {sample_format!r}")
    check_out(out, overwrite, "waveform store", frozenset(SAMPLE_FILES.values()))
    bad = _BadFiles(folder, skip_bad)
    tagged = _tagged(folder, tags, bad)
    headers = _headers(folder, list(tagged), bad)
    tagged = {file: tagged[file] for file in headers}
    splits = split_files(folder, tagged, split)
    wide = any(header.wide for header in headers.values())
    kept: SampleFormat = ("float32" if wide else "int16") if sample_format == "auto" else sample_format
    lengths = [resampled_length(header.frames, header.rate, sample_rate) for header in headers.values()]
    check_space(out, sum(lengths) * SAMPLE_TYPES[kept].itemsize)
    with atomic_folder(out, replace=overwrite) as partial, (partial / SAMPLE_FILES[kept]).open("wb") as file:
        samples = _Samples(file)
        clips: list[Clip] = []
        for name, outcome in _outcomes(
            folder, list(headers), partial, sample_rate, kept, workers, samples, progress
        ):
            if isinstance(outcome, ValueError):
                bad.add(name, outcome)
                continue
            offset = clips[-1].offset + clips[-1].length if clips else 0
            tag, length = tagged[name], outcome.length
            clips.append(
                Clip(
                    name,
                    length,
                    offset,
                    outcome.low,
                    outcome.high,
                    tag.label,
                    tag.speaker,
                    splits[name],
                    outcome.sha256,
                )
            )
            samples.clipped += outcome.clipped
        if not clips:
            raise ValueError(f"{folder} has no good audio file: all {len(bad.skipped)} are bad")
        found = {clip.label for clip in clips if clip.label is not None}
        AudioIndex(
            source=folder.resolve().name,
            sample_rate=sample_rate,
            sample_format=kept,
            quantiser=quantiser or Quantiser(),
            labels=tags.wanted_labels or tuple(sorted(found, key=natural_key)),
            clips=tuple(clips),
            clipped=samples.clipped,
            skipped=tuple(bad.skipped),
            sha256=samples.digest.hexdigest(),
        ).write(partial)
    return WaveformStore.open(out)


class _BadFiles:
    """Stops at the first bad file, or keeps a list of them."""

    def __init__(self, folder: Path, skip: bool) -> None:
        self.folder = folder
        self.skip = skip
        self.skipped: list[Skipped] = []

    def add(self, name: str, error: ValueError) -> None:
        """Note a bad file, or raise its error."""
        if not self.skip:
            raise ValueError(f"{error}; to leave bad files out: --skip-bad") from error
        self.skipped.append(Skipped(name, str(error).removeprefix(f"{self.folder / name} ")))


class _Samples:
    """The store's file of samples as it grows."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.clipped = 0

    def append(self, part: Path) -> None:
        """Move the samples of a batch to the end."""
        with part.open("rb") as content:
            while block := content.read(BLOCK_BYTES):
                self.digest.update(block)
                self.file.write(block)
        part.unlink()


def _tagged(folder: Path, config: TagConfig, bad: _BadFiles) -> dict[str, Tags]:
    files, strange = find_audio(folder)
    for name in strange:
        bad.add(
            name,
            ValueError(
                f"{folder / name} has an extension that cannot be read (only {', '.join(EXTENSIONS)})"
            ),
        )
    tagged: dict[str, Tags] = {}
    for name, tags in read_tags(folder, files, config).items():
        if isinstance(tags, str):
            bad.add(name, ValueError(f"{folder / name} {tags}"))
        else:
            tagged[name] = tags
    return tagged


def _headers(folder: Path, files: Sequence[str], bad: _BadFiles) -> dict[str, Header]:
    """Headers of the files that have one."""
    headers: dict[str, Header] = {}
    for name in files:
        try:
            headers[name] = read_header(folder / name)
        except ValueError as error:
            bad.add(name, error)
    if not headers:
        raise ValueError(f"{folder} has no good audio file: all {len(bad.skipped)} are bad")
    return headers


def _outcomes(
    folder: Path,
    files: Sequence[str],
    partial: Path,
    sample_rate: int,
    sample_format: SampleFormat,
    workers: int | None,
    samples: _Samples,
    progress: bool,
) -> Iterator[tuple[str, Converted | ValueError]]:
    """Convert all files and append their samples in order, batch by batch."""
    sizes = [(folder / name).stat().st_size for name in files]
    shares = list(_shares(sizes))
    batches = [
        Batch(
            tuple(folder / name for name in files[begin:end]),
            sample_rate,
            sample_format,
            partial / f"part-{begin}",
        )
        for begin, end in shares
    ]
    count = min(len(batches), workers or len(os.sched_getaffinity(0)))
    quiet = None if progress else True  # None: only on a terminal
    with tqdm(
        total=sum(sizes), unit="B", unit_scale=True, desc=folder.name, leave=False, disable=quiet
    ) as bar:
        for (begin, end), batch, outcomes in zip(shares, batches, _converted(batches, count), strict=True):
            samples.append(batch.part)
            yield from zip(files[begin:end], outcomes, strict=True)
            bar.update(sum(sizes[begin:end]))


def _shares(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of files of a few megabytes: begin and end of each."""
    begin = total = 0
    for i, size in enumerate(sizes):
        if i > begin and (total + size > BATCH_BYTES or i - begin == BATCH_FILES):
            yield begin, i
            begin, total = i, 0
        total += size
    yield begin, len(sizes)


def _converted(batches: Sequence[Batch], workers: int) -> Iterator[list[Converted | ValueError]]:
    """Outcomes of the batches in order; not many more batches are begun than are taken."""
    if workers == 1:
        yield from map(convert_batch, batches)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    waiting: deque[Future[list[Converted | ValueError]]] = deque()
    try:
        for batch in batches:
            waiting.append(pool.submit(convert_batch, batch, alone=False))
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
