"""Convert a folder of audio files to a waveform store: in parallel, constant memory, whole or not at all.

Samples are kept as int16 where no source has more than 16 bits a sample (lossy formats count as such): a
16-bit mono file at the store's rate is kept bit for bit, and what is mixed down or resampled is rounded once.
If any source has more bits, all are kept as float32.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import IO, Literal, get_args

from bioaudio_data.atomic_folder import atomic_folder, check_space
from bioaudio_data.audio.batch import Converted
from bioaudio_data.audio.index import SAMPLE_FILES, SAMPLE_TYPES, AudioIndex, Clip, SampleFormat
from bioaudio_data.audio.parallel import convert_files
from bioaudio_data.audio.quantiser import Quantiser
from bioaudio_data.audio.resample import resampled_length
from bioaudio_data.audio.splits import SplitConfig, natural_key, split_files
from bioaudio_data.audio.store import WaveformStore
from bioaudio_data.audio.survey import AudioFile, BadFiles, survey
from bioaudio_data.audio.tags import TagConfig
from bioaudio_data.store_folder import BLOCK_BYTES, check_out


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
        workers: processes; as many as are worth starting, at most one for each CPU core, if None.
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
    bad = BadFiles(folder, skip_bad)
    files = survey(folder, tags, bad, progress=progress)
    splits = split_files(folder, {file.name: file.tags for file in files}, split)
    kept: SampleFormat = "float32" if any(file.header.wide for file in files) else "int16"
    kept = kept if sample_format == "auto" else sample_format
    lengths = [resampled_length(file.header.frames, file.header.rate, sample_rate) for file in files]
    check_space(out, sum(lengths) * SAMPLE_TYPES[kept].itemsize)
    with (
        atomic_folder(out, replace=overwrite) as partial,
        (partial / SAMPLE_FILES[kept]).open("wb") as samples,
    ):
        writer = _Writer(samples)
        paths = [folder / file.name for file in files]
        waiting = iter(files)
        for part, outcomes in convert_files(
            paths, sample_rate, kept, partial, workers=workers, progress=progress
        ):
            writer.append(part)
            for outcome in outcomes:
                file = next(waiting)
                if isinstance(outcome, ValueError):
                    bad.add(file.name, outcome)
                else:
                    writer.add(file, splits[file.name], outcome)
        bad.require(len(writer.clips))
        found = {clip.label for clip in writer.clips if clip.label is not None}
        AudioIndex(
            source=folder.resolve().name,
            sample_rate=sample_rate,
            sample_format=kept,
            quantiser=quantiser or Quantiser(),
            labels=tags.wanted_labels or tuple(sorted(found, key=natural_key)),
            clips=tuple(writer.clips),
            clipped=writer.clipped,
            skipped=tuple(bad.skipped),
            sha256=writer.digest.hexdigest(),
        ).write(partial)
    return WaveformStore.open(out)


class _Writer:
    """The store's file of samples as it grows, and what its index will say."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.clips: list[Clip] = []
        self.clipped = self.size = 0

    def append(self, part: Path) -> None:
        """Move the samples of a batch to the end."""
        with part.open("rb") as content:
            while block := content.read(BLOCK_BYTES):
                self.digest.update(block)
                self.file.write(block)
        part.unlink()

    def add(self, file: AudioFile, split: str, converted: Converted) -> None:
        """Note the next clip of what was appended."""
        self.clips.append(
            Clip(
                name=file.name,
                length=converted.length,
                offset=self.size,
                low=converted.low,
                high=converted.high,
                label=file.tags.label,
                speaker=file.tags.speaker,
                split=split,
                sha256=converted.sha256,
            )
        )
        self.size += converted.length
        self.clipped += converted.clipped
