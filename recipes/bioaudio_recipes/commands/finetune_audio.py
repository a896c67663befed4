"""`bioaudio finetune-audio`: a classifier of the clips of a waveform store by their labels."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from bioaudio_mamba import SashimiConfig
from bioaudio_mamba.classifier import Pooling
from bioaudio_mamba.pretrained import read_description
from bioaudio_recipes.finetune.running import Finetuning, check_settings
from bioaudio_recipes.finetune.schedule import FinetuneSchedule
from bioaudio_recipes.finetune.validation import EvaluationConfig
from bioaudio_recipes.finetune.waveform_task import WaveformTask
from bioaudio_recipes.optimisation import OptimizerConfig
from bioaudio_recipes.pretrain.starting_waveform_model import (
    ABOUT,
    WaveformPreset,
    sound_of,
    starting_waveform_model,
)
from bioaudio_recipes.pretrain.waveform_data import HeardStore, WaveformCorpus, WaveformData
from bioaudio_recipes.speech.fitting import check_labels
from bioaudio_recipes.training.engine import TrainerConfig


def finetune_audio(
    *,
    out: Path,
    data: HeardStore,
    length: int | None = None,
    init_from: Path | None = None,
    model: SashimiConfig | WaveformPreset | None = None,
    pooling: Pooling = "mean",
    freeze_backbone: bool = False,
    schedule: FinetuneSchedule = FinetuneSchedule(),
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3, lr_min=1e-5),
    trainer: TrainerConfig = TrainerConfig(),
    resume: Literal["auto", "never"] | Path = "auto",
    seed: int = 0,
) -> str:
    """Fine-tune a classifier of clips by their labels, such as spoken digits, and judge it on the test split.

    It trains, stops and goes on as `finetune` does, and keeps its results in the same places of OUT.

    Args:
        out: run folder to write; that of a pretraining will do.
        data: the store, and how samples become codes: as the pretrained model hears them.
        length: samples of a window; by default those of the longest clip, so that every clip is one example.
        init_from: folder of a pretrained model (RUN/model) to start from; one trained without labels.
        model: without init_from, a preset or sizes of a fresh network.
        pooling: the head reads the mean over all samples, or the last sample's state.
        freeze_backbone: train the head alone.
        schedule: epochs, batch and length warm-up; an epoch is a pass over the train split.
        optimizer: AdamW and its learning rate over all stages.
        trainer: device, precision, micro-batches, logging and checkpoints.
        resume: auto goes on from the newest checkpoint of this length, never refuses a folder that has one, a
            path goes on from that checkpoint.
        seed: of fresh weights and of all draws.

    Raises:
        FileNotFoundError: for a store, model or checkpoint that is not there.
        ValueError: for settings that contradict each other, a clip without a label, or a model that hears
            other codes.
    """
    arguments = dict(locals())
    check_settings(optimizer, trainer, seed)
    if length is not None and length < 1:
        raise ValueError(f"--length must be 1 or more, got {length}")
    if init_from is not None:
        _check_untold(init_from)
    corpus = WaveformCorpus(WaveformData(store=data.store, quantiser=data.quantiser))
    check_labels(corpus.store)
    length = length or max(clip.length for clip in corpus.store.clips)
    return Finetuning(
        out=out,
        arguments=arguments,
        task=WaveformTask(corpus=corpus, length=length),
        length=length,
        backbone=starting_waveform_model(model, init_from, seed, corpus).backbone,
        about={ABOUT: corpus.about()},
        init_from=init_from,
        pooling=pooling,
        freeze_backbone=freeze_backbone,
        schedule=schedule,
        optimizer=optimizer,
        evaluation=EvaluationConfig(),
        trainer=trainer,
        resume=resume,
        seed=seed,
    ).run()


def _check_untold(init_from: Path) -> None:
    """Refuse a network that is told the label, which a classifier is to find."""
    config, extra = read_description(init_from)
    if isinstance(config, SashimiConfig) and (labels := sound_of(init_from, extra).labels):
        raise ValueError(
            f"--init-from {init_from} was trained with the labels {', '.join(labels)}, and a classifier "
            "cannot be told them; pretrain one with `bioaudio pretrain-audio --data.conditional false`, or "
            "leave --init-from out"
        )
