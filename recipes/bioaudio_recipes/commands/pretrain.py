"""`bioaudio pretrain`: a causal language model of DNA, with sequence-length warm-up."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from bioaudio_data.vocabulary import DNA

from bioaudio_mamba import MambaConfig
from bioaudio_recipes.optimisation import OptimizerConfig
from bioaudio_recipes.pretrain.genome_data import GenomeCorpus, GenomeData
from bioaudio_recipes.pretrain.length_warmup import LengthWarmup
from bioaudio_recipes.pretrain.next_token_loss import per_target
from bioaudio_recipes.pretrain.objective import NextBase
from bioaudio_recipes.pretrain.running import Pretraining
from bioaudio_recipes.pretrain.starting_model import Preset, starting_model
from bioaudio_recipes.pretrain.training_batches import TrainingBatches
from bioaudio_recipes.pretrain.validation import ValidationConfig
from bioaudio_recipes.training.engine import TrainerConfig


def pretrain(
    *,
    out: Path,
    data: GenomeData,
    schedule: LengthWarmup,
    model: MambaConfig | Preset | None = None,
    optimizer: OptimizerConfig = OptimizerConfig(),
    validation: ValidationConfig = ValidationConfig(),
    trainer: TrainerConfig = TrainerConfig(),
    init_from: Path | None = None,
    resume: Literal["auto", "never"] | Path = "auto",
    seed: int = 0,
) -> str:
    """Pretrain a language model on genomes, stage by stage of growing window length.

    A run that is stopped anywhere and resumed ends with the same bytes as one that was not, on a CPU as on a
    GPU.

    Args:
        out: run folder to write (config, metrics, checkpoints, model).
        data: genomes, splits and windows.
        schedule: window lengths and how long each is trained on.
        model: a preset or sizes.
        optimizer: AdamW and its learning rate over all stages.
        validation: when and at which lengths the validation split is read.
        trainer: devices, precision, micro-batches, logging and checkpoints.
        init_from: folder of a model to start from instead of fresh weights.
        resume: auto goes on from the newest checkpoint of `out`, never refuses an `out` with one, a path goes
            on from that checkpoint.
        seed: of the weights, the order of windows and their augmentation.

    Raises:
        FileNotFoundError: for a store, BED file, model or checkpoint that is not there.
        ValueError: for settings that contradict each other, leaking splits, or a checkpoint of another run.
    """
    arguments = dict(locals())
    corpus = GenomeCorpus(data)
    training = {length: corpus.windows("train", length, data.rule) for length in schedule.lengths}
    corpus.check_leakage(schedule.lengths)
    lengths = validation.lengths or schedule.lengths
    stages = schedule.plan({length: len(windows) for length, windows in training.items()})
    finished = Pretraining(
        out=out,
        arguments=arguments,
        network=starting_model(model, init_from, seed),
        objective=NextBase(data.soft_mask_weight),
        batches=TrainingBatches([training[stage.length] for stage in stages], data.augmentation(), seed),
        stages=stages,
        held_out={length: corpus.windows("valid", length, "tile") for length in lengths},
        validate_every=validation.every,
        most_validated=validation.max_bases,
        schedule=schedule,
        optimizer=optimizer,
        trainer=trainer,
        resume=resume,
        seed=seed,
        data={**corpus.identity(), **data.reading()},
        init_from=init_from,
        about={"vocabulary": DNA.to_dict()},
    ).run()
    if finished is None:
        return ""
    measured = [
        f"{per_target(nats, 'base')['perplexity']:.4f} at {length}" for length, nats in finished.nats.items()
    ]
    return finished.summary(*([f"validation perplexity: {', '.join(measured)}"] if measured else []))
