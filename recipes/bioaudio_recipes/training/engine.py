"""How a run is executed: devices, precision, workers, and how often it logs and saves."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from bioaudio_recipes.training.checkpoints import Checkpoint


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Execution of a run, on Lightning."""

    tokens_per_microbatch: int = 2**15
    """Tokens that one device takes in one forward and backward pass; as many passes as needed make a step."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """bf16-mixed runs matrix products in bfloat16 (parameters, scan and loss stay in float32)."""
    accelerator: str = "auto"
    """Lightning's name of the kind of device: auto, cpu, gpu."""
    devices: int | Literal["auto"] = 1
    """Devices to train on, of each machine; auto takes all GPUs that it shows, or the CPU."""
    num_nodes: int = 1
    """Machines; SLURM or torchrun starts one process a device on each."""
    strategy: str = "auto"
    """Lightning's name of the way several devices work together, such as ddp."""
    compile: bool = False
    """Whether to run the model through torch.compile."""
    deterministic: bool = False
    """Whether to insist on deterministic operations on a GPU too; on a CPU all of them are."""
    num_workers: int = 2
    """Processes that prepare batches; 0 prepares them between the steps."""
    log_every: int = 10
    """Optimizer steps from one row of metrics.csv to the next."""
    checkpoint_every: int = 200
    """Optimizer steps from one checkpoint to the next; the end and a stop make one too."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep."""
    max_minutes: float | None = None
    """Save, export and leave after this time, of a limited booking for example; --resume auto goes on."""
    progress: bool = True
    """Whether to show a progress bar on stderr."""

    def __post_init__(self) -> None:
        counts = ("tokens_per_microbatch", "num_nodes", "log_every", "checkpoint_every", "keep_checkpoints")
        for name in counts if self.devices == "auto" else (*counts, "devices"):
            if getattr(self, name) < 1:
                raise ValueError(f"--trainer.{name} must be 1 or more, got {getattr(self, name)}")
        if self.num_workers < 0:
            raise ValueError(f"--trainer.num_workers must be 0 or more, got {self.num_workers}")
        if self.max_minutes is not None and self.max_minutes <= 0:
            raise ValueError(f"--trainer.max_minutes must be above 0, got {self.max_minutes}")

    def on_cuda(self) -> bool:
        """Whether the run will be on an NVIDIA GPU."""
        return self.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()

    @property
    def device_count(self) -> int:
        """Devices of each machine."""
        if self.devices != "auto":
            return self.devices
        return torch.cuda.device_count() if self.on_cuda() else 1

    @property
    def world_size(self) -> int:
        """Devices of all machines, one process each."""
        return self.device_count * self.num_nodes

    def arithmetic(self) -> dict[str, Any]:
        """The settings that change a run's numbers, if only by rounding."""
        names = ("tokens_per_microbatch", "precision", "compile", "deterministic")
        return {name: getattr(self, name) for name in names} | {"devices": self.world_size}


def fit(
    module: LightningModule,
    loader: DataLoader[Any],
    callbacks: list[Callback],
    config: TrainerConfig,
    *,
    accumulation: int = 1,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Train on every batch of `loader`, going on from `checkpoint` if there is one.

    Logging, saving, validation and the progress bar are left to `callbacks`.

    Args:
        module: its weights are the trained ones afterwards.
        loader: all batches of the run, with `state_dict` and `load_state_dict`.
        callbacks: called in this order.
        config: how to execute the run.
        accumulation: batches of this process in an optimizer step.
        checkpoint: what to go on from.
    """
    with _quiet_lightning():
        trainer = Trainer(
            accelerator=config.accelerator,
            devices=config.device_count,
            num_nodes=config.num_nodes,
            strategy=config.strategy,
            precision=config.precision,
            deterministic=config.deterministic,
            accumulate_grad_batches=accumulation,
            callbacks=callbacks,
            max_epochs=1,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        path = checkpoint.path if checkpoint else None
        trainer.fit(module, loader, ckpt_path=path, weights_only=True)


def process_rank() -> int:
    """This process among those of the run: 0 writes files, the others only compute.

    Known before Lightning starts, from what torchrun, SLURM's srun and Lightning give to the processes that
    they launch, in the order in which Lightning looks for them.
    """
    by_srun = "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    launcher = "RANK" if "RANK" in os.environ else "SLURM_PROCID" if by_srun else "LOCAL_RANK"
    return int(os.environ.get(launcher, "0"))


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advice and banners off the terminal; its warnings and errors still come through."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            warnings.filterwarnings("ignore", message=".*LeafSpec")
            yield
    finally:
        logger.setLevel(level)
