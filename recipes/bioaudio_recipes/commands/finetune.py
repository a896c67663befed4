"""`bioaudio finetune`: a classifier of genomes by class, or of labelled sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from bioaudio_data.vocabulary import DNA

from bioaudio_mamba import MambaConfig
from bioaudio_mamba.classifier import Pooling
from bioaudio_recipes.finetune.genomes import GenomeSplits
from bioaudio_recipes.finetune.open_task import Sampling, open_task
from bioaudio_recipes.finetune.running import Finetuning, check_settings
from bioaudio_recipes.finetune.schedule import FinetuneSchedule
from bioaudio_recipes.finetune.validation import EvaluationConfig
from bioaudio_recipes.optimisation import OptimizerConfig
from bioaudio_recipes.pretrain.starting_model import Preset, starting_model
from bioaudio_recipes.training.engine import TrainerConfig

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
    _check(sequences, evaluation)
    check_settings(optimizer, trainer, seed)
    task, length = open_task(
        classes, sequences, length, splits, sampling, converted=out / "finetune" / "genomes", seed=seed
    )
    return Finetuning(
        out=out,
        arguments=arguments,
        task=task,
        length=length,
        backbone=starting_model(model, init_from, seed).backbone,
        about={"vocabulary": DNA.to_dict()},
        init_from=init_from,
        pooling=pooling,
        freeze_backbone=freeze_backbone,
        schedule=schedule,
        optimizer=optimizer,
        evaluation=evaluation,
        trainer=trainer,
        resume=resume,
        seed=seed,
    ).run()


def _check(sequences: Path | None, evaluation: EvaluationConfig) -> None:
    if sequences is not None and evaluation.lengths:
        raise ValueError(
            "--evaluation.lengths goes with --classes; with --sequences whole sequences are judged"
        )
