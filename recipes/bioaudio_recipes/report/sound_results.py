"""What a run over waveforms left in its folder, read for the report; every part may be missing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from bioaudio_data.audio import WaveformStore

from bioaudio_recipes.report.players import MOST_CLIPS, Clip
from bioaudio_recipes.run_folder import RunFolder
from bioaudio_recipes.speech.clips import TABLE, GeneratedClip, decoded, generated_clips
from bioaudio_recipes.speech.results import read_speech


@dataclass(frozen=True)
class SoundResults:
    """What there is to hear and to say of a run over waveforms."""

    bits: Mapping[str, Any] | None = None
    """The content of evaluation/bits_per_sample.json."""
    speech: Mapping[str, Any] | None = None
    """The content of evaluation/speech.json."""
    speed: Mapping[str, Any] | None = None
    """The content of speed.json beside the generated clips."""
    generated: Sequence[Clip] = field(default_factory=list)
    real: Sequence[Clip] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return any((self.bits, self.speech, self.speed, self.generated))


def read_sound(root: Path) -> SoundResults:
    """Read a run's folder; what was generated lies in folders of it that have a clips.csv.

    Raises:
        ValueError: naming a file that is damaged.
    """
    run = RunFolder(root)
    folders = sorted(path.parent for path in root.glob(f"*/{TABLE}"))
    bits, speech = run.evaluation / "bits_per_sample.json", run.evaluation / "speech.json"
    speeds = [path for folder in folders if (path := folder / "speed.json").is_file()]
    each = max(1, MOST_CLIPS // max(1, len(folders)))
    chosen = [clip for folder in folders[:MOST_CLIPS] for clip in generated_clips(folder, least=1)[:each]]
    return SoundResults(
        bits=_read_bits(bits) if bits.is_file() else None,
        speech=read_speech(speech) if speech.is_file() else None,
        speed=_read_speed(speeds[0]) if speeds else None,
        generated=[_generated(clip, names_folder=len(folders) > 1) for clip in chosen],
        real=_real(run.config, [clip.label for clip in chosen]) if chosen else [],
    )


def _generated(clip: GeneratedClip, *, names_folder: bool) -> Clip:
    notes = [clip.path.parent.name] if names_folder else []
    notes += [f"{clip.log_likelihood:,.0f} nats"] if clip.log_likelihood is not None else []
    notes += ["flagged as gone wrong"] if clip.flagged else []
    rate = clip.sample_rate
    return Clip(clip.label or clip.path.stem, ", ".join(notes), clip.read(rate), rate)


def _real(config: Path, labels: Sequence[str | None]) -> list[Clip]:
    """Test clips of the store that the run was trained on, of the same labels, where the store still is."""
    try:
        store = WaveformStore.open(yaml.safe_load(config.read_text(encoding="utf-8"))["data"]["store"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return []
    numbers = [int(i) for i in store.of_split("test")] or [int(i) for i in store.of_split("valid")]
    found = []
    for label in labels:
        fitting = [i for i in numbers if label in (None, store.clips[i].label)]
        if fitting:
            numbers.remove(fitting[0])
            about = store.clips[fitting[0]]
            found.append(
                Clip(about.label or about.name, about.name, decoded(store, fitting[0]), store.sample_rate)
            )
    return found


def _read_bits(path: Path) -> dict[str, Any]:
    content = _read_object(path)
    try:
        for entry in content["lengths"]:
            for name in ("length", "samples", "bits", "counted", "entropy"):
                if not isinstance(entry[name], int | float):
                    raise TypeError(f"{name} is {entry[name]!r}, not a number")
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the result of `bioaudio pretrain-audio`: {error}") from error
    return content


def _read_speed(path: Path) -> dict[str, Any]:
    content = _read_object(path)
    if not isinstance(content.get("samples_per_second"), int | float):
        raise ValueError(f"{path} is not the result of `bioaudio generate`: it has no samples_per_second")
    return content


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content
