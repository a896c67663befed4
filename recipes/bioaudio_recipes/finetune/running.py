"""A fine-tuning from its first step or its newest checkpoint to the judged classifier, whatever it reads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bioaudio_mamba import Mamba, Sashimi, SequenceClassifier, count_parameters
from bioaudio_mamba.classifier import Pooling
from bioaudio_mamba.pretrained import find_weights
from bioaudio_recipes.finetune.batches import StepBatches
from bioaudio_recipes.finetune.judging import Judge
from bioaudio_recipes.finetune.model_folder import save_classifier
from bioaudio_recipes.finetune.results import check_same_classes, record
from bioaudio_recipes.finetune.schedule import FinetuneSchedule
from bioaudio_recipes.finetune.scores import Scores
from bioaudio_recipes.finetune.task import Task
from bioaudio_recipes.finetune.training import train
from bioaudio_recipes.finetune.training_module import ClassifierModule
from bioaudio_recipes.finetune.validation import EvaluationConfig
from bioaudio_recipes.optimisation import OptimizerConfig
from bioaudio_recipes.run_folder import RunFolder, device_name
from bioaudio_recipes.training.checkpoints import CheckpointFolder, Resume, find_checkpoint, flatten
from bioaudio_recipes.training.engine import TrainerConfig
from bioaudio_recipes.training.saved_config import plain, save_config
from bioaudio_recipes.training.stopping import SaveAndStop


@dataclass(frozen=True, kw_only=True)
class Finetuning:
    """All that a fine-tuning needs."""

    out: Path
    """Run folder."""
    arguments: Mapping[str, Any]
    """Of the command, for config.yaml."""
    task: Task
    """What is learned."""
    length: int
    """Most tokens of an example."""
    backbone: Mamba | Sashimi
    """What the classifier starts from."""
    about: Mapping[str, Any]
    """What tokens mean, for the trained model's config.json."""
    init_from: Path | None
    """Folder that the backbone came from."""
    pooling: Pooling
    freeze_backbone: bool
    schedule: FinetuneSchedule
    optimizer: OptimizerConfig
    evaluation: EvaluationConfig
    trainer: TrainerConfig
    resume: Resume
    seed: int

    def run(self) -> str:
        """Train, or go on; save and judge the classifier; the lines to print.

        Raises:
            FileNotFoundError: for a checkpoint that is not there.
            ValueError: if the results in the folder are of other classes, a checkpoint of another run, or a
                class without an example of that length.
        """
        trainer, task, length = self.trainer, self.task, self.length
        results = RunFolder(self.out).evaluation / "classification.json"
        check_same_classes(results, task.classes)
        stages = self.schedule.plan(length, trainer.tokens_per_microbatch, task.examples_per_epoch)
        steps = StepBatches(task, stages, self.seed)
        lengths = self.evaluation.lengths or [length]
        tests = {n: task.held_out("test", n, self.evaluation.windows) for n in lengths}
        valid = self.evaluation.valid(task, [stage.length for stage in stages])
        network = self._classifier()
        settings = {
            "model": network.backbone.config,
            "init_from": None if self.init_from is None else _file_hash(find_weights(self.init_from)),
            "pooling": self.pooling,
            "freeze_backbone": self.freeze_backbone,
            "data": task.identity(),
            "stages": [f"{stage.steps} steps of {stage.batch_size} x {stage.length}" for stage in stages],
            "optimizer": self.optimizer,
            "trainer": trainer.arithmetic(),
            "seed": self.seed,
        }
        tokens = max(max(stage.microbatches) * stage.length for stage in stages)
        planner = trainer.planner(network.backbone.config, count_parameters(network), tokens)
        module = ClassifierModule(network, self.optimizer, steps, flatten(plain(settings)), planner)
        folder = RunFolder(self.out / "finetune" / f"length-{length}")
        checkpoint = find_checkpoint(CheckpointFolder(folder.checkpoints), self.resume, module.numbers)

        if trainer.compile:
            network.backbone.compile()
        RunFolder(self.out).create()
        folder.create()
        save_config(folder.config, self.arguments)
        judge = Judge(
            classes=task.classes,
            tokens_per_batch=trainer.tokens_per_microbatch,
            bf16=trainer.precision == "bf16-mixed",
            both_strands=self.evaluation.both_strands,
            progress=trainer.progress,
        )
        save = train(
            module,
            folder,
            trainer,
            valid=valid,
            judge=judge,
            steps_per_epoch=self.schedule.steps_in_epoch(task.examples_per_epoch),
            seed=self.seed,
            checkpoint=checkpoint,
        )
        save_classifier(network, task.classes, folder.model, self.about)
        save.leave_if_told_to()
        network.to(device := "cuda" if trainer.on_cuda() else "cpu")
        trained = {"trained_length": length, "steps": save.step, "of_steps": save.total_steps}
        scores = {n: judge(network, examples, n) for n, examples in tests.items()}
        entries = [{"length": n, **score.to_dict(), **trained} for n, score in scores.items()]
        about = {"model": _describe(network), "device": device_name(device), "unit": task.unit}
        for path in (folder.evaluation / results.name, results):
            record(path, task.classes, entries, about)
        return _summary(scores, save, results)

    def _classifier(self) -> SequenceClassifier:
        generator = torch.Generator().manual_seed(self.seed)
        classifier = SequenceClassifier(self.backbone, len(self.task.classes), self.pooling, generator)
        if self.freeze_backbone:
            classifier.freeze_backbone()
        return classifier


def check_settings(optimizer: OptimizerConfig, trainer: TrainerConfig, seed: int) -> None:
    """Refuse what no fine-tuning can do.

    Raises:
        ValueError: naming the flag.
    """
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
