"""A pretraining from its first step or its newest checkpoint to the exported model, whatever it trains on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bioaudio_data.windows import StagePlan
from torch.utils.data import Dataset

from bioaudio_mamba import LanguageModel as Network
from bioaudio_mamba import count_parameters
from bioaudio_mamba.pretrained import save_pretrained
from bioaudio_recipes.cuda_graph import cuda_graph
from bioaudio_recipes.optimisation import OptimizerConfig
from bioaudio_recipes.pretrain.batch_order import BatchOrder, ResumableLoader
from bioaudio_recipes.pretrain.language_model import LanguageModel
from bioaudio_recipes.pretrain.length_warmup import LengthWarmup
from bioaudio_recipes.pretrain.objective import Objective
from bioaudio_recipes.pretrain.step_log import StepLog, train_columns
from bioaudio_recipes.pretrain.validation import HeldOutWindows, Validation, validation_columns
from bioaudio_recipes.run_folder import RunFolder
from bioaudio_recipes.training.checkpoints import CheckpointFolder, Resume, find_checkpoint, flatten
from bioaudio_recipes.training.engine import TrainerConfig, fit, process_rank
from bioaudio_recipes.training.metrics_log import MetricsLog
from bioaudio_recipes.training.roll_call import RollCall
from bioaudio_recipes.training.saved_config import plain, save_config
from bioaudio_recipes.training.stopping import SaveAndStop


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """All that a pretraining needs."""

    out: Path
    """Run folder."""
    arguments: Mapping[str, Any]
    """Of the command, for config.yaml."""
    network: Network
    """What is trained."""
    objective: Objective
    """What it is to predict."""
    batches: Dataset[Any]
    """Batches by `BatchKey`."""
    stages: list[StagePlan]
    """In the order of training."""
    held_out: Mapping[int, HeldOutWindows]
    """Validation windows, by length."""
    validate_every: int | None
    """Steps between two validations within a stage; None for none."""
    most_validated: int
    """Tokens that are validated at each length."""
    schedule: LengthWarmup
    optimizer: OptimizerConfig
    trainer: TrainerConfig
    resume: Resume
    seed: int
    data: Mapping[str, Any]
    """Every setting of the data that numbers depend on."""
    init_from: Path | None
    """Where the weights of the network came from, if from a checkpoint."""
    about: Mapping[str, Any]
    """Kept with the exported model."""

    def run(self) -> Finished | None:
        """Train, validate and export; None on every rank but the first.

        Raises:
            ValueError: if the checkpoint is of other settings, or training diverges.
            KeyboardInterrupt, SystemExit: at the end, if a signal asked the run to.
        """
        trainer, schedule, network = self.trainer, self.schedule, self.network
        rank = process_rank(trainer)
        microbatch, tokens = trainer.tokens_per_microbatch, schedule.tokens_per_step
        accumulation = schedule.accumulation(microbatch, trainer.world_size, trainer.context)
        parameters = count_parameters(network)
        module = LanguageModel(
            network,
            self.optimizer,
            self.objective,
            total_steps=sum(stage.steps for stage in self.stages),
            tokens_per_step=tokens,
            tokens_per_microbatch=microbatch,
            context=trainer.context,
            timeout=trainer.collective_timeout,
            numbers=flatten(plain(self._settings())),
            planner=trainer.planner(network.config, parameters, microbatch),
            record=cuda_graph if trainer.records() else None,
        )
        if trainer.compile:
            network.backbone.compile()
        folder = RunFolder(self.out)
        checkpoints = CheckpointFolder(folder.checkpoints, trainer.keep_checkpoints)
        checkpoint = find_checkpoint(checkpoints, self.resume, module.numbers)
        if rank == 0:
            folder.create()
            save_config(folder.config, self.arguments)

        unit = self.objective.unit
        columns = [*train_columns(unit), *validation_columns(self.held_out, unit)]
        log = MetricsLog(folder, columns, checkpoint.step if checkpoint else None, active=rank == 0)
        progress = StepLog(log, self.stages, tokens, every=trainer.log_every, progress=trainer.progress)
        judge = Validation(
            log, self.held_out, self.stages, self.validate_every, self.most_validated, microbatch, progress
        )
        roll = RollCall(trainer.timeout)
        save = SaveAndStop(
            checkpoints, log, roll, module.total_steps, trainer.checkpoint_every, trainer.max_minutes
        )
        order = BatchOrder(
            self.stages,
            seed=self.seed,
            accumulation=accumulation,
            rank=rank // trainer.context,
            world_size=trainer.world_size // trainer.context,
        )
        loader = ResumableLoader(
            self.batches, order, num_workers=trainer.num_workers, pin_memory=trainer.on_cuda()
        )
        callbacks = [progress, judge, save, roll]
        fit(module, loader, callbacks, trainer, accumulation=accumulation, checkpoint=checkpoint)
        log.close()

        if rank != 0:
            return None  # a good end, even after a signal: launchers may kill rank 0 once another one fails
        trained = {"trained": {"steps": save.step, "of_steps": module.total_steps}}
        save_pretrained(module.result, folder.model, {**self.about, **trained})
        save.leave_if_told_to()
        nats = judge.nats if judge.step == save.step else {}
        return Finished(folder, module.result, parameters, save.step, module.total_steps, nats)

    def _settings(self) -> dict[str, Any]:
        return {
            "model": self.network.config,
            "init_from": self.init_from,
            "data": self.data,
            "stages": [f"{stage.steps} steps of length {stage.length}" for stage in self.stages],
            "tokens_per_step": self.schedule.tokens_per_step,
            "optimizer": self.optimizer,
            "trainer": self.trainer.arithmetic(),
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Finished:
    """What a pretraining ends with."""

    folder: RunFolder
    model: Network
    """The exported one."""
    parameters: int
    step: int
    """Optimizer steps done, fewer than `total_steps` if time was up."""
    total_steps: int
    nats: Mapping[int, float]
    """Of the validation after the last step, by length; empty where there was none."""

    @property
    def is_whole(self) -> bool:
        """Whether all steps were done."""
        return self.step == self.total_steps

    def summary(self, *measured: str) -> str:
        """A few lines for the terminal, with what was measured among them."""
        state = "pretrained" if self.is_whole else "time is up: pretrained"
        steps = f"{self.step:,} of {self.total_steps:,} steps"
        return "\n".join(
            [
                f"{state} {self.parameters:,} parameters, {steps}: {self.folder.model}",
                *measured,
                *([] if self.is_whole else ["the same command goes on from here"]),
            ]
        )
