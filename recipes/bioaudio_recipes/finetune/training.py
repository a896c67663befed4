"""Run the training of a classifier in its folder, from the start or from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch import Callback

from bioaudio_recipes.finetune.judging import Judge
from bioaudio_recipes.finetune.step_log import TRAIN_COLUMNS, StepLog
from bioaudio_recipes.finetune.step_order import StepOrder
from bioaudio_recipes.finetune.task import HeldOut
from bioaudio_recipes.finetune.training_module import ClassifierModule
from bioaudio_recipes.finetune.validation import Validation, validation_columns
from bioaudio_recipes.pretrain.batch_order import ResumableLoader
from bioaudio_recipes.run_folder import RunFolder
from bioaudio_recipes.training.checkpoints import Checkpoint, CheckpointFolder
from bioaudio_recipes.training.engine import TrainerConfig, fit
from bioaudio_recipes.training.metrics_log import MetricsLog
from bioaudio_recipes.training.roll_call import RollCall
from bioaudio_recipes.training.stopping import SaveAndStop


def train(
    module: ClassifierModule,
    folder: RunFolder,
    trainer: TrainerConfig,
    *,
    valid: Mapping[int, HeldOut],
    judge: Judge,
    steps_per_epoch: int,
    seed: int,
    checkpoint: Checkpoint | None,
) -> SaveAndStop:
    """Train to the last step, or until a signal or the end of the time.

    Args:
        module: its weights are the trained ones afterwards.
        folder: takes metrics.csv and checkpoints.
        trainer: how to execute the run.
        valid: examples of the valid split by length of a stage; empty for no validation.
        judge: classifies them.
        steps_per_epoch: steps from one validation to the next.
        seed: of the loader.
        checkpoint: what to go on from.

    Returns:
        what knows how far training came, and why it stopped.
    """
    columns = [*TRAIN_COLUMNS, *validation_columns(list(valid))]
    log = MetricsLog(folder, columns, checkpoint.step if checkpoint else None)
    progress = StepLog(log, every=trainer.log_every, progress=trainer.progress)
    callbacks: list[Callback] = [progress]
    if valid:
        callbacks.append(Validation(log, valid, judge, every=steps_per_epoch, step_log=progress))
    checkpoints = CheckpointFolder(folder.checkpoints, trainer.keep_checkpoints)
    total = len(module.steps)
    alone = RollCall(trainer.timeout)
    save = SaveAndStop(checkpoints, log, alone, total, trainer.checkpoint_every, trainer.max_minutes)
    order = StepOrder(total, seed)
    loader = ResumableLoader(
        module.steps, order, num_workers=trainer.num_workers, pin_memory=trainer.on_cuda()
    )
    try:
        fit(module, loader, [*callbacks, save], trainer, checkpoint=checkpoint)
    finally:
        log.close()
    return save
