"""`bioaudio evaluate-speech`: scores of generated clips beside those of real ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bioaudio_data.audio import WaveformStore
from numpy.typing import NDArray

from bioaudio_recipes.evaluation.open_model import device_named
from bioaudio_recipes.generation.clip_folder import SETTINGS, read_settings
from bioaudio_recipes.run_folder import RunFolder, device_name
from bioaudio_recipes.speech.classifier import Heard, SpeechClassifier
from bioaudio_recipes.speech.clips import GeneratedClip, generated_clips, most_likely, real_clips
from bioaudio_recipes.speech.fitting import classifier_of, labels_of
from bioaudio_recipes.speech.results import DRAWN, FILTERED, check_same_classifier, record, speech_table
from bioaudio_recipes.speech.scoring import row, subset
from bioaudio_recipes.speech.training import ClassifierTraining

DROPPED = 0.4, 0.05
"""Shares of the least and of the most likely clips that the published protocol drops."""


def evaluate_speech(
    store: Path,
    clips: Path | None = None,
    *,
    out: Path,
    name: str = "generated",
    classifier: Path | None = None,
    training: ClassifierTraining | None = None,
    resamples: int = 200,
    seed: int = 0,
    device: str = "auto",
) -> str:
    """Score generated speech: FID, IS, mIS and AM, and the share of clips that are recognised as their label.

    A classifier of the store's labels is trained on its train split, once, and known by the hash of its
    weights from then on; scores of different classifiers are never put into one table. The rows train and
    test are the store's own clips: what a perfect model would reach.

    Args:
        store: Waveform store with labels.
        clips: Folder of generated wav or flac files, as `bioaudio generate` writes it: clips.csv in it, if
            there, has the columns file, label, log_likelihood, flagged, and generation.json how they were
            drawn. Default: only the store is scored.
        out: Run folder; the scores go to evaluation/speech.json in it, beside those that are there.
        name: Of the rows of these clips. With likelihoods there are two: all clips, and those left when the
            least likely 40 % and the most likely 5 % are dropped, as in the published tables.
        classifier: Folder of the classifier, made unless it is there. Default: beside the store, its name
            followed by -classifier.
        training: How the classifier is trained, if it is.
        resamples: Sets of clips drawn for the intervals.
        seed: Of those draws.
        device: Where the classifier runs: auto, cpu, cuda, cuda:1, ...
    """
    if resamples < 2:
        raise ValueError(f"--resamples must be 2 or more, got {resamples}")
    if seed < 0:
        raise ValueError(f"--seed must be 0 or more, got {seed}")
    if name in ("", "train", "test") or name.endswith(FILTERED):
        raise ValueError(f"--name must not be empty, train, test or end in '{FILTERED}', got {name!r}")
    source = WaveformStore.open(store)
    generated = generated_clips(clips) if clips is not None else []
    where = device_named(device)
    folder = classifier or source.path.with_name(f"{source.path.name}-classifier")
    labels = _generated_labels(generated, source.index.labels)
    judge = classifier_of(source, folder, training, where)
    path = RunFolder(out).evaluation / "speech.json"
    check_same_classifier(path, judge.sha256)

    drawing = {"resamples": resamples, "seed": seed}
    train = judge.hear(real_clips(source, "train"))
    rows = [row("train", train, train, labels_of(source, "train"), **drawing)]
    if len(source.of_split("test")) > 1:
        test = judge.hear(real_clips(source, "test"))
        rows.append(row("test", test, train, labels_of(source, "test"), **drawing))
    if clips is not None:
        rows += _generated_rows(name, clips, generated, judge, train, labels, drawing)
    RunFolder(out).create()
    about = {"device": device_name(where), "bootstrap": drawing}
    return f"{speech_table(record(path, judge, rows, about))}\n{path}"


def _generated_labels(clips: list[GeneratedClip], classes: tuple[str, ...]) -> NDArray[np.int64] | None:
    """What the clips were meant to be, if all of them have a label."""
    wanted = [clip.label for clip in clips]
    if not any(wanted):
        return None
    for clip, label in zip(clips, wanted, strict=True):
        if label not in classes:
            raise ValueError(
                f"{clip.path} has the label {label!r} in clips.csv; the store has {', '.join(classes)}"
            )
    return np.array([classes.index(str(label)) for label in wanted], np.int64)


def _generated_rows(
    name: str,
    folder: Path,
    clips: list[GeneratedClip],
    judge: SpeechClassifier,
    train: Heard,
    labels: NDArray[np.int64] | None,
    drawing: dict[str, int],
) -> Iterator[dict[str, Any]]:
    """All clips; and, where their likelihoods are known, those that the published filter leaves."""
    heard = judge.hear(clip.read(judge.mel.sample_rate) for clip in clips)
    about: dict[str, Any] = {"folder": str(folder), "flagged": sum(clip.flagged for clip in clips)}
    if (folder / SETTINGS).is_file():
        settings = read_settings(folder)
        about["drawn"] = {key: settings[key] for key in DRAWN if key in settings}
    yield row(name, heard, train, labels, **drawing) | about
    if all(clip.log_likelihood is not None for clip in clips):
        places = most_likely(clips, *DROPPED)
        if len(places) > 1:
            kept = None if labels is None else labels[places]
            about["flagged"] = sum(clips[i].flagged for i in places)
            yield row(f"{name}{FILTERED}", subset(heard, places), train, kept, **drawing) | about
