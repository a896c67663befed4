"""`bioaudio prepare-audio`: a folder of audio files to one waveform store."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

from bioaudio_data.audio import Layout, Quantiser, SplitConfig, TagConfig, WaveformStore, convert_audio
from bioaudio_data.audio import layout as layout_of
from bioaudio_data.audio.splits import SPLITS


def prepare_audio(
    folder: Path,
    *,
    out: Path,
    sample_rate: int = 16_000,
    layout: Layout | None = None,
    tags: TagConfig = TagConfig(),
    split: SplitConfig = SplitConfig(),
    quantiser: Quantiser = Quantiser(),
    sample_format: Literal["auto", "int16", "float32"] = "auto",
    skip_bad: bool = False,
    workers: int | None = None,
    overwrite: bool = False,
) -> str:
    """Convert a folder of wav, flac, ogg and mp3 files to one waveform store.

    Args:
        folder: Folder of the files, which may lie in folders of their own.
        out: Folder of the store to make; it appears only when the store is complete.
        sample_rate: Samples a second of the store; files of another rate are resampled, channels mixed to
            one.
        layout: Tags and splits of a published data set: speech_commands, its digits sc09, or fsdd.
        tags: Where labels and speakers come from.
        split: How files are divided into train, valid and test.
        quantiser: How models shall see the samples; the store itself keeps them whole.
        sample_format: Type of the stored samples: int16, unless a source has more bits (auto).
        skip_bad: Leave bad files out and list them in the store's index, instead of stopping at the first.
        workers: Processes; if not given, as many as are worth starting, at most one for each CPU core.
        overwrite: Replace an older store at `out`.
    """
    if layout is not None:
        if (tags, split) != (TagConfig(), SplitConfig()):
            raise ValueError(f"--layout {layout} sets tags and splits; drop it, or --tags and --split")
        tags, split = layout_of(layout)
    store = convert_audio(
        folder,
        out,
        sample_rate=sample_rate,
        tags=tags,
        split=split,
        quantiser=quantiser,
        sample_format=sample_format,
        skip_bad=skip_bad,
        workers=workers,
        overwrite=overwrite,
    )
    return "\n".join([_summary(store), *_warnings(store)])


def _summary(store: WaveformStore) -> str:
    index = store.index
    counts = Counter(clip.split for clip in store.clips)
    splits = ", ".join(f"{counts[split]:,} {split}" for split in SPLITS if counts[split])
    return (
        f"{store.path}: {len(store.clips):,} clips ({splits}), "
        f"{store.seconds:,.1f} s at {store.sample_rate:,} Hz as {index.sample_format}, "
        f"{len(index.labels)} label(s), {index.quantiser}"
    )


def _warnings(store: WaveformStore) -> list[str]:
    index = store.index
    lines = [f"left out {skipped.name}: {skipped.reason}" for skipped in index.skipped]
    if index.clipped:
        lines.append(f"warning: {index.clipped:,} samples beyond full scale were clipped to int16")
    labels: dict[str, set[str | None]] = {}
    sources: dict[str, set[str]] = {}
    for clip in store.clips:
        labels.setdefault(clip.split, set()).add(clip.label)
        sources.setdefault(clip.sha256, set()).add(clip.split)
    for split in ("valid", "test"):
        if unseen := sorted(map(str, labels.get(split, set()) - labels.get("train", set()))):
            lines.append(f"warning: {split} has labels that train lacks: {', '.join(unseen)}; see --split.by")
    if leaks := sum(len(splits) > 1 for splits in sources.values()):
        lines.append(f"warning: {leaks:,} file(s) with the same bytes are in several splits")
    return lines
