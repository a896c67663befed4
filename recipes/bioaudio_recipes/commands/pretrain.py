"""`bioaudio pretrain`: a causal language model of DNA, with sequence-length warm-up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from bioaudio_data.vocabulary import DNA

from bioaudio_mamba import MambaConfig, count_parameters
from bioaudio_mamba.pretrained import save_pretrained
from bioaudio_recipes.optimisation import OptimizerConfig
from bioaudio_recipes.pretrain.batch_order import BatchOrder, ResumableLoader
from bioaudio_recipes.pretrain.genome_data import GenomeCorpus, GenomeData
from bioaudio_recipes.pretrain.language_model import LanguageModel
from bioaudio_recipes.pretrain.length_warmup import LengthWarmup
from bioaudio_recipes.pretrain.starting_model import Preset, starting_model
from bioaudio_recipes.pretrain.step_log import TRAIN_COLUMNS, StepLog
from bioaudio_recipes.pretrain.training_batches import TrainingBatches
from bioaudio_recipes.pretrain.validation import Validation, ValidationConfig, validation_columns
from bioaudio_recipes.run_folder import RunFolder
from bioaudio_recipes.training.checkpoints import CheckpointFolder, find_checkpoint, flatten
from bioaudio_recipes.training.engine import TrainerConfig, fit, process_rank
from bioaudio_recipes.training.metrics_log import MetricsLog
from bioaudio_recipes.training.roll_call import RollCall
from bioaudio_recipes.training.saved_config import plain, save_config
from bioaudio_recipes.training.stopping import SaveAndStop


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

    On a CPU, a run that is stopped anywhere and resumed ends with the same bytes as one that was not.

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
    rank = process_rank(trainer)
    corpus = GenomeCorpus(data)
    training = {length: corpus.windows("train", length, data.rule) for length in schedule.lengths}
    corpus.check_leakage(schedule.lengths)
    held_out = {
        length: corpus.windows("valid", length, "tile") for length in validation.lengths or schedule.lengths
    }
    stages = schedule.plan({length: len(windows) for length, windows in training.items()})
    accumulation = schedule.accumulation(trainer.tokens_per_microbatch, trainer.world_size, trainer.context)
    network = starting_model(model, init_from, seed)
    settings = {
        "model": network.config,
        "init_from": init_from,
        "data": {**corpus.identity(), **data.reading()},
        "stages": [f"{stage.steps} steps of length {stage.length}" for stage in stages],
        "tokens_per_step": schedule.tokens_per_step,
        "optimizer": optimizer,
        "trainer": trainer.arithmetic(),
        "seed": seed,
    }
    module = LanguageModel(
        network,
        optimizer,
        total_steps=sum(stage.steps for stage in stages),
        tokens_per_step=schedule.tokens_per_step,
        tokens_per_microbatch=trainer.tokens_per_microbatch,
        soft_mask_weight=data.soft_mask_weight,
        context=trainer.context,
        timeout=trainer.collective_timeout,
        numbers=flatten(plain(settings)),
        planner=trainer.planner(network.config, count_parameters(network), trainer.tokens_per_microbatch),
    )
    if trainer.compile:
        network.backbone.compile()
    folder = RunFolder(out)
    checkpoints = CheckpointFolder(folder.checkpoints, trainer.keep_checkpoints)
    checkpoint = find_checkpoint(checkpoints, resume, module.numbers)
    if rank == 0:
        folder.create()
        save_config(folder.config, arguments)

    columns = [*TRAIN_COLUMNS, *validation_columns(held_out)]
    log = MetricsLog(folder, columns, checkpoint.step if checkpoint else None, active=rank == 0)
    progress = StepLog(
        log, stages, schedule.tokens_per_step, every=trainer.log_every, progress=trainer.progress
    )
    judge = Validation(log, held_out, stages, validation, trainer.tokens_per_microbatch, progress)
    roll = RollCall(trainer.timeout)
    save = SaveAndStop(
        checkpoints, log, roll, module.total_steps, trainer.checkpoint_every, trainer.max_minutes
    )
    order = BatchOrder(
        stages,
        seed=seed,
        accumulation=accumulation,
        rank=rank // trainer.context,
        world_size=trainer.world_size // trainer.context,
    )
    batches = TrainingBatches([training[stage.length] for stage in stages], data.augmentation(), seed)
    loader = ResumableLoader(batches, order, num_workers=trainer.num_workers, pin_memory=trainer.on_cuda())
    callbacks = [progress, judge, save, roll]
    fit(module, loader, callbacks, trainer, accumulation=accumulation, checkpoint=checkpoint)
    log.close()

    if rank != 0:
        return ""  # a good end, even after a signal: launchers may kill rank 0 as soon as another one fails
    about = {"vocabulary": DNA.to_dict(), "trained": {"steps": save.step, "of_steps": module.total_steps}}
    save_pretrained(module.result, folder.model, about)
    save.leave_if_told_to()
    return _summary(folder, save, count_parameters(network), judge.perplexity)


def _summary(folder: RunFolder, save: SaveAndStop, parameters: int, perplexity: Mapping[int, float]) -> str:
    state = "pretrained" if save.step == save.total_steps else "time is up: pretrained"
    measured = ", ".join(f"{value:.4f} at {length}" for length, value in perplexity.items())
    return "\n".join(
        [
            f"{state} {parameters:,} parameters, {save.step:,} of {save.total_steps:,} steps: {folder.model}",
            *([f"validation perplexity: {measured}"] if measured else []),
            *(["the same command goes on from here"] if save.step < save.total_steps else []),
        ]
    )
