"""How a run is executed: devices, precision, workers, and how often it logs and saves."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from bioaudio_mamba import MambaConfig, SashimiConfig
from bioaudio_recipes.training.checkpoints import Checkpoint
from bioaudio_recipes.training.memory import MemoryPlanner


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
    """Devices of each host to train on; auto takes all GPUs that it shows, or the CPU."""
    num_nodes: int = 1
    """Hosts; SLURM or torchrun starts one process a device on each."""
    context: int = 1
    """Devices that share one sequence, each with a part of it; the others take other sequences."""
    timeout_seconds: float = 1800.0
    """How long a device waits for the others before the run ends with an error that names who is missing."""
    strategy: str = "auto"
    """Lightning's name of the way several devices work together, such as ddp."""
    compile: bool = False
    """Whether to run the model through torch.compile."""
    cuda_graph: bool = True
    """Whether pretraining records its pass over a micro-batch and launches it as one, wherever that can be:
    on a GPU, with memory full, without compile and context. The numbers are the same to rounding."""
    memory: Literal["auto", "full", "blocks", "chunks"] = "auto"
    """Activations kept for the backward pass: full keeps all, blocks those between the blocks, chunks those
    of one chunk of time, for any length; what is not kept is made again. auto takes the first that fits."""
    chunk_length: int | None = None
    """Time steps of a chunk, which makes auto take chunks; by default as the free memory allows."""
    deterministic: bool = False
    """Whether to insist on deterministic operations of torch on a GPU too, which only attention blocks need
    for the same bytes twice. On a CPU all of them are."""
    num_workers: int = 2
    """Processes that prepare batches; 0 prepares them between the steps."""
    log_every: int = 10
    """Optimizer steps from one row of metrics.csv to the next."""
    checkpoint_every: int = 200
    """Optimizer steps from one checkpoint to the next; the end and a stop make one too."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep."""
    max_minutes: float | None = None
    """Save, export and leave after this time, of a limited booking for example; --resume auto goes on. It is
    looked at between two steps: a validation is not cut short, so leave it the time that it takes."""
    progress: bool = True
    """Whether to show a progress bar on stderr."""

    def __post_init__(self) -> None:
        counts = ("num_nodes", "context", "log_every", "checkpoint_every", "keep_checkpoints")
        for name in ("tokens_per_microbatch", *counts, *(() if self.devices == "auto" else ("devices",))):
            if getattr(self, name) < 1:
                raise ValueError(f"--trainer.{name} must be 1 or more, got {getattr(self, name)}")
        if self.world_size % self.context:
            raise ValueError(
                f"--trainer.context {self.context} must divide the {self.world_size} devices of the run "
                "(--trainer.devices times --trainer.num_nodes)"
            )
        if self.context > 1 and self.strategy not in ("auto", "ddp"):
            raise ValueError(f"--trainer.context needs --trainer.strategy ddp, got {self.strategy}")
        if self.timeout_seconds <= 0:
            raise ValueError(f"--trainer.timeout_seconds must be above 0, got {self.timeout_seconds}")
        if self.chunk_length is not None and self.chunk_length < 1:
            raise ValueError(f"--trainer.chunk_length must be 1 or more, got {self.chunk_length}")
        if self.chunk_length is not None and self.memory in ("full", "blocks"):
            raise ValueError(f"--trainer.chunk_length is for memory chunks, not for {self.memory}")
        if self.num_workers < 0:
            raise ValueError(f"--trainer.num_workers must be 0 or more, got {self.num_workers}")
        if self.max_minutes is not None and self.max_minutes <= 0:
            raise ValueError(f"--trainer.max_minutes must be above 0, got {self.max_minutes}")

    @property
    def world_size(self) -> int:
        """Devices of the run, each with a process of its own."""
        return self.device_count * self.num_nodes

    @property
    def timeout(self) -> timedelta:
        """`timeout_seconds`"""
        return timedelta(seconds=self.timeout_seconds)

    @property
    def collective_timeout(self) -> timedelta:
        """How long a collective may take. On a GPU longer: NCCL then ends the process before it can speak."""
        return self.timeout * (2 if self.on_cuda() else 1)

    def records(self) -> bool:
        """Whether passes that keep all activations are recorded as CUDA graphs."""
        plain = not self.compile and self.context == 1 and self.strategy in ("auto", "ddp")
        return self.cuda_graph and self.on_cuda() and plain

    def on_cuda(self) -> bool:
        """Whether the run will be on an NVIDIA GPU."""
        return self.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()

    @property
    def device_count(self) -> int:
        """Devices of each host."""
        if self.devices != "auto":
            return self.devices
        return torch.cuda.device_count() if self.on_cuda() else 1

    def planner(self, model: MambaConfig | SashimiConfig, parameters: int, tokens: int) -> MemoryPlanner:
        """Chooses how activations are kept, for micro-batches of so many tokens."""
        return MemoryPlanner(
            memory=self.memory,
            chunk_length=self.chunk_length,
            model=model,
            parameters=parameters,
            tokens=tokens,
            half=self.precision == "bf16-mixed",
            compiled=self.compile,
            processes=self.device_count,
            progress=self.progress,
        )

    def arithmetic(self) -> dict[str, Any]:
        """The settings that change a run's numbers, if only by rounding; checkpoints hold what auto chose."""
        names = ["tokens_per_microbatch", "precision", "compile", "deterministic"]
        if self.memory == "chunks":
            names += ["memory", "chunk_length"]
        if self.context > 1:
            names.append("context")
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

    Raises:
        ValueError: for an accelerator or devices that are not there.
        KeyboardInterrupt: after Ctrl-C where no callback took the signal.
    """
    strategy: Any = config.strategy
    if config.world_size > 1 and strategy in ("auto", "ddp"):
        strategy = DDPStrategy(timeout=config.collective_timeout)
    with _quiet_lightning():
        try:
            trainer = Trainer(
                accelerator=config.accelerator,
                devices=config.device_count,
                num_nodes=config.num_nodes,
                strategy=strategy,
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
        except MisconfigurationException as error:
            message = str(error).partition("\n")[0]
            wanted = f"--trainer.accelerator {config.accelerator}, --trainer.devices {config.devices}"
            raise ValueError(f"{wanted} cannot be used here: {message}") from error
        path = checkpoint.path if checkpoint else None
        try:
            trainer.fit(module, loader, ckpt_path=path, weights_only=True)
        except SystemExit as error:  # which Lightning makes of Ctrl-C, with an exit code of its own
            if isinstance(error.__context__, KeyboardInterrupt):
                raise error.__context__ from None
            raise


def process_rank(config: TrainerConfig) -> int:
    """This process among those of the run: 0 writes files, the others only compute.

    Known before Lightning starts, from what torchrun, srun and Lightning give to the processes they launch.

    Raises:
        ValueError: if torchrun started another number of processes than `config` speaks of.
    """
    started = int(os.environ.get("WORLD_SIZE", config.world_size))
    if started != config.world_size:
        raise ValueError(
            f"{started} processes were started, but --trainer.devices {config.device_count} times "
            f"--trainer.num_nodes {config.num_nodes} are {config.world_size}"
        )
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    if int(os.environ.get("SLURM_NTASKS", "1")) == config.world_size > 1:
        return int(os.environ["SLURM_PROCID"])
    return int(os.environ.get("NODE_RANK", "0")) * config.device_count + int(
        os.environ.get("LOCAL_RANK", "0")
    )


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
