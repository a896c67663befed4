"""`bioaudio finetune`: a classifier of genomes by class, or of labelled sequences."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from bioaudio_mamba import MambaConfig, SequenceClassifier, count_parameters
from bioaudio_mamba.classifier import Pooling
from bioaudio_mamba.pretrained import find_weights
from bioaudio_recipes.finetune.batches import StepBatches
from bioaudio_recipes.finetune.genomes import GenomeSplits
from bioaudio_recipes.finetune.judging import Judge
from bioaudio_recipes.finetune.model_folder import save_classifier
from bioaudio_recipes.finetune.open_task import Sampling, open_task
from bioaudio_recipes.finetune.results import check_same_classes, record
from bioaudio_recipes.finetune.schedule import FinetuneSchedule
from bioaudio_recipes.finetune.scores import Scores
from bioaudio_recipes.finetune.training import train
from bioaudio_recipes.finetune.training_module import ClassifierModule
from bioaudio_recipes.finetune.validation import EvaluationConfig
from bioaudio_recipes.optimisation import OptimizerConfig
from bioaudio_recipes.pretrain.starting_model import Preset, starting_model
from bioaudio_recipes.run_folder import RunFolder, device_name
from bioaudio_recipes.training.checkpoints import CheckpointFolder, find_checkpoint, flatten
from bioaudio_recipes.training.engine import TrainerConfig
from bioaudio_recipes.training.saved_config import plain, save_config
from bioaudio_recipes.training.stopping import SaveAndStop

PAPER_OPTIMIZER = OptimizerConfig(learning_rate=1e-4, lr_min=1e-6, warmup=0.5)
"""Half of the run up to the peak, the other half down again (Mamba paper, appendix E.3)."""


def finetune(
    *,
    out: Path,
    classes: dict[str, Path] | None = None,
    sequences: Path | None = None,
    length: int | None = None,
    init_from: Path | None = None,
    model: MambaConfig | Preset | None = None,
    pooling: Pooling = "last",
    freeze_backbone: bool = False,
    splits: GenomeSplits = GenomeSplits(),
    sampling: Sampling = Sampling(),
    schedule: FinetuneSchedule = FinetuneSchedule(),
    optimizer: OptimizerConfig = PAPER_OPTIMIZER,
    evaluation: EvaluationConfig = EvaluationConfig(),
    trainer: TrainerConfig = TrainerConfig(),
    resume: Literal["auto", "never"] | Path = "auto",
    seed: int = 0,
) -> str:
    """Fine-tune a classifier of species, or of your own classes, and judge it on held-out DNA.

    Training is kept in OUT/finetune/length-LENGTH; the results of all lengths meet in
    OUT/evaluation/classification.json. OUT may be the folder of a pretraining. On a CPU, a run that is
    stopped and resumed ends with the same bytes as one that was not.

    Args:
        out: run folder to write.
        classes: genome of each class, as --classes.human PATH: a store, a FASTA or .2bit file, or a
            folder of such files.
        sequences: instead of genomes, a CSV with the columns sequence, label and, if wanted, split (train,
            valid or test).
        length: bases in a window; with --sequences the most bases of a sequence, by default the longest's.
        init_from: folder of a pretrained model (RUN/model) to start from.
        model: without init_from, a preset or sizes of a fresh model.
        pooling: the head reads the last token's state, or the mean over all tokens.
        freeze_backbone: train the head alone.
        splits: which bases of the genomes are for training, validation and test.
        sampling: how training examples are drawn.
        schedule: epochs, batch and length warm-up.
        optimizer: AdamW and its learning rate over all stages.
        evaluation: how many test windows, at which lengths, on one strand or both.
        trainer: device, precision, micro-batches, logging and checkpoints.
        resume: auto goes on from the newest checkpoint of this length, never refuses a folder that has one, a
            path goes on from that checkpoint.
        seed: of fresh weights and of all draws.

    Raises:
        FileNotFoundError: for a genome, CSV, model or checkpoint that is not there.
        ValueError: for settings that contradict each other, a class without a sequence of that length, or a
            checkpoint of another run.
    """
    arguments = dict(locals())
    _check(sequences, evaluation, optimizer, trainer, seed)
    root, results = RunFolder(out), RunFolder(out).evaluation / "classification.json"
    task, length = open_task(
        classes, sequences, length, splits, sampling, converted=out / "finetune" / "genomes", seed=seed
    )
    check_same_classes(results, task.classes)
    stages = schedule.plan(length, trainer.tokens_per_microbatch, task.examples_per_epoch)
    steps = StepBatches(task, stages, seed)
    tests = {n: task.held_out("test", n, evaluation.windows) for n in evaluation.lengths or [length]}
    valid = evaluation.valid(task, [stage.length for stage in stages])
    network = _starting_classifier(model, init_from, len(task.classes), pooling, freeze_backbone, seed)
    settings = {
        "model": network.backbone.config,
        "init_from": None if init_from is None else _file_hash(find_weights(init_from)),
        "pooling": pooling,
        "freeze_backbone": freeze_backbone,
        "data": task.identity(),
        "stages": [f"{stage.steps} steps of {stage.batch_size} x {stage.length}" for stage in stages],
        "optimizer": optimizer,
        "trainer": trainer.arithmetic(),
        "seed": seed,
    }
    tokens = max(max(stage.microbatches) * stage.length for stage in stages)
    planner = trainer.planner(network.backbone.config, count_parameters(network), tokens)
    module = ClassifierModule(network, optimizer, steps, flatten(plain(settings)), planner)
    folder = RunFolder(out / "finetune" / f"length-{length}")
    checkpoint = find_checkpoint(CheckpointFolder(folder.checkpoints), resume, module.numbers)

    if trainer.compile:
        network.backbone.compile()
    root.create()
    folder.create()
    save_config(folder.config, arguments)
    judge = Judge(
        classes=task.classes,
        tokens_per_batch=trainer.tokens_per_microbatch,
        bf16=trainer.precision == "bf16-mixed",
        both_strands=evaluation.both_strands,
        progress=trainer.progress,
    )
    save = train(
        module,
        folder,
        trainer,
        valid=valid,
        judge=judge,
        steps_per_epoch=schedule.steps_in_epoch(task.examples_per_epoch),
        seed=seed,
        checkpoint=checkpoint,
    )
    save_classifier(network, task.classes, folder.model)
    save.leave_if_told_to()
    network.to(device := "cuda" if trainer.on_cuda() else "cpu")
    trained = {"trained_length": length, "steps": save.step, "of_steps": save.total_steps}
    scores = {n: judge(network, examples, n) for n, examples in tests.items()}
    entries = [{"length": n, **score.to_dict(), **trained} for n, score in scores.items()]
    about = {"model": _describe(network), "device": device_name(device)}
    for path in (folder.evaluation / results.name, results):
        record(path, task.classes, entries, about)
    return _summary(scores, save, results)


def _check(
    sequences: Path | None,
    evaluation: EvaluationConfig,
    optimizer: OptimizerConfig,
    trainer: TrainerConfig,
    seed: int,
) -> None:
    if sequences is not None and evaluation.lengths:
        raise ValueError(
            "--evaluation.lengths goes with --classes; with --sequences whole sequences are judged"
        )
    if seed < 0:
        raise ValueError(f"--seed must be 0 or more, got {seed}")
    if trainer.world_size != 1:
        raise ValueError(
            f"--trainer.devices must be 1, got {trainer.world_size}: fine-tuning uses one device"
        )
    if optimizer.ema_decay is not None:
        raise ValueError(
            "--optimizer.ema_decay is for pretraining; fine-tuning keeps no average of the weights"
        )


def _starting_classifier(
    model: MambaConfig | Preset | None,
    init_from: Path | None,
    n_classes: int,
    pooling: Pooling,
    freeze_backbone: bool,
    seed: int,
) -> SequenceClassifier:
    backbone = starting_model(model, init_from, seed).backbone
    generator = torch.Generator().manual_seed(seed)
    classifier = SequenceClassifier(backbone, n_classes, pooling, generator)
    if freeze_backbone:
        classifier.freeze_backbone()
    return classifier


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _describe(model: SequenceClassifier) -> dict[str, int]:
    config = model.backbone.config
    return {"parameters": count_parameters(model), "d_model": config.d_model, "n_layer": config.n_layer}


def _summary(scores: Mapping[int, Scores], save: SaveAndStop, results: Path) -> str:
    lines = []
    if save.step < save.total_steps:
        lines.append(
            f"time is up after {save.step:,} of {save.total_steps:,} steps; the same command goes on"
        )
    for length, score in scores.items():
        low, high = score.interval
        lines.append(
            f"length {length:,}: accuracy {score.accuracy:.1%} (95 % interval {low:.1%} to {high:.1%}) on "
            f"{score.examples:,} test examples, chance {1 / len(score.classes):.1%}"
        )
    return "\n".join([*lines, f"results: {results}"])
