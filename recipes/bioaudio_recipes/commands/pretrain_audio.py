"""`bioaudio pretrain-audio`: a network over raw waveforms, with or without labels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from bioaudio_mamba import SashimiConfig
from bioaudio_recipes.evaluation.bits_per_sample import LengthBits, measure_bits, write_bits
from bioaudio_recipes.optimisation import OptimizerConfig
from bioaudio_recipes.pretrain.length_warmup import LengthWarmup
from bioaudio_recipes.pretrain.running import Pretraining
from bioaudio_recipes.pretrain.starting_waveform_model import ABOUT, WaveformPreset, starting_waveform_model
from bioaudio_recipes.pretrain.waveform_data import (
    WaveformBatches,
    WaveformCorpus,
    WaveformData,
    WaveformValidation,
)
from bioaudio_recipes.training.engine import TrainerConfig


def pretrain_audio(
    *,
    out: Path,
    data: WaveformData,
    schedule: LengthWarmup,
    model: SashimiConfig | WaveformPreset | None = None,
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-3),
    validation: WaveformValidation = WaveformValidation(),
    trainer: TrainerConfig = TrainerConfig(),
    init_from: Path | None = None,
    resume: Literal["auto", "never"] | Path = "auto",
    seed: int = 0,
) -> str:
    """Pretrain a network to predict every sample of a waveform, in one stage or several of growing length.

    It runs, logs, stops and goes on as `pretrain` does. At the end it is scored on the test split (or the
    validation split of a store without one), in bits per sample beside those of counts of pairs of codes.

    Args:
        out: run folder to write (config, metrics, checkpoints, model).
        data: the store, labels, and how samples become codes.
        schedule: window lengths and how long each is trained on.
        model: a preset or sizes.
        optimizer: AdamW and its learning rate over all stages.
        validation: when and at which lengths the validation split is read.
        trainer: devices, precision, micro-batches, logging and checkpoints.
        init_from: folder of a model to start from instead of fresh weights.
        resume: auto goes on from the newest checkpoint of `out`, never refuses an `out` with one, a path goes
            on from that checkpoint.
        seed: of the weights, and of the order and places of windows.

    Raises:
        FileNotFoundError: for a store, model or checkpoint that is not there.
        ValueError: for settings that contradict each other, missing labels, clips that are all too short, or
            a checkpoint of other codes or another run.
    """
    arguments = dict(locals())
    if trainer.context > 1:
        raise ValueError(f"--trainer.context {trainer.context} is for DNA: a waveform stays on one device")
    corpus = WaveformCorpus(data)
    training = {length: corpus.training_windows(length) for length in schedule.lengths}
    lengths = validation.lengths or list(schedule.lengths)
    stages = schedule.plan({length: len(windows) for length, windows in training.items()})
    finished = Pretraining(
        out=out,
        arguments=arguments,
        network=starting_waveform_model(model, init_from, seed, corpus),
        objective=corpus.objective,
        batches=WaveformBatches([training[stage.length] for stage in stages], corpus, seed),
        stages=stages,
        held_out={length: corpus.held_out(length) for length in lengths},
        validate_every=validation.every,
        most_validated=validation.max_samples,
        schedule=schedule,
        optimizer=optimizer,
        trainer=trainer,
        resume=resume,
        seed=seed,
        data=corpus.identity(),
        init_from=init_from,
        about={ABOUT: corpus.about()},
    ).run()
    if finished is None:
        return ""
    found = [
        f"validation bits per sample: {nats / math.log(2):.4f} at {length}"
        for length, nats in finished.nats.items()
    ]
    if finished.is_whole:
        network = finished.model.to("cuda" if trainer.on_cuda() else "cpu")
        results = measure_bits(
            network, corpus, lengths, validation.max_samples, trainer.tokens_per_microbatch
        )
        write_bits(finished.folder, results, network)
        found += [_line(result) for result in results]
    return finished.summary(*found)


def _line(result: LengthBits) -> str:
    return (
        f"{result.split} bits per sample: {result.bits:.4f} at {result.length} "
        f"(counts of pairs of codes: {result.counted:.4f}, order-1 entropy {result.entropy:.4f})"
    )
