"""Tiny pretraining runs, in processes of their own that can be killed at a chosen micro-batch."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from bioaudio_data.genome import convert_genome
from bioaudio_recipes.commands.pretrain import pretrain
from bioaudio_recipes.optimisation import OptimizerConfig
from bioaudio_recipes.pretrain.genome_data import GenomeData
from bioaudio_recipes.pretrain.language_model import LanguageModel
from bioaudio_recipes.pretrain.length_warmup import LengthWarmup, Stage
from bioaudio_recipes.pretrain.validation import ValidationConfig
from bioaudio_recipes.training.engine import TrainerConfig, process_rank

from bioaudio_mamba import MambaConfig

STEPS = (7, 6)
"""Optimizer steps of the two stages."""
ACCUMULATION = 2
TIMINGS = ("train/tokens_per_second", "train/peak_memory_gb")


@dataclass(frozen=True)
class Interruption:
    """What happens to a run before one of its micro-batches, counted over the whole run."""

    microbatch: int
    by: signal.Signals | Exception


def make_store(folder: Path, bases: int = 6000, seed: int = 0, letters: str = "ACGT") -> Path:
    """A store of one random contig."""
    text = "".join(np.random.default_rng(seed).choice(list(letters), bases))
    fasta = folder / "random.fa"
    fasta.write_text(f">contig\n{text}\n")
    return convert_genome([fasta], folder / "store", progress=False).path


def arguments(store: Path, out: Path, **trainer: Any) -> dict[str, Any]:
    """A run of 13 steps in two stages, with everything switched on that a checkpoint has to carry."""
    engine: dict[str, Any] = {
        "tokens_per_microbatch": 128 // ACCUMULATION,
        "accelerator": "cpu",
        "num_workers": 0,
        "log_every": 2,
        "checkpoint_every": 3,
        "progress": False,
    }
    return {
        "out": out,
        "data": GenomeData(genomes=[store], guard=100, soft_mask_weight=0.5, max_shift=3),
        "schedule": LengthWarmup(
            stages=[Stage(length=16, steps=STEPS[0]), Stage(length=32, steps=STEPS[1])], tokens_per_step=128
        ),
        "model": MambaConfig(d_model=8, n_layer=1, d_state=4),
        "optimizer": OptimizerConfig(ema_decay=0.9),
        "validation": ValidationConfig(max_bases=128, every=5),
        "trainer": TrainerConfig(**(engine | trainer)),
    }


def run(values: dict[str, Any], interruption: Interruption | None = None) -> int:
    """Run `pretrain` in a fresh process; returns its exit code, negative for a signal it died of."""
    return _run_all([(values, interruption, {})])[0]


def run_on_two_ranks(
    values: dict[str, Any],
    port: int,
    interruption: Interruption | None = None,
    *,
    launcher: Literal["lightning", "slurm"] = "lightning",
    **trainer: Any,
) -> list[int]:
    """Run `pretrain` as two processes that talk over `port`, under SLURM each on a host; gives exit codes.

    An interruption befalls rank 1 alone. What rank r fails of is written to `error r` in the run folder.
    """
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if launcher == "slurm":
        hosts = {"num_nodes": 2}
        here |= {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "1"}
        here |= {"SLURM_LOCALID": "0"}
        ranks = [here | {"SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank)} for rank in (0, 1)]
    else:
        hosts = {"devices": 2}
        ranks = [here | {"LOCAL_RANK": str(rank), "NODE_RANK": "0"} for rank in (0, 1)]
    values = values | {"trainer": replace(values["trainer"], strategy="ddp", **hosts, **trainer)}
    return _run_all([(values, interruption if rank else None, ranks[rank]) for rank in (0, 1)])


def _run_all(calls: list[tuple[Any, ...]]) -> list[int]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "bioaudio_recipes.commands.pretrain"])
    processes = [context.Process(target=_run, args=call) for call in calls]
    for process in processes:
        process.start()
    processes[0].join()  # a process that was stopped would stay
    for process in processes[1:]:
        process.join(timeout=60 if processes[0].exitcode == 0 else 1)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode or 0 for process in processes]


def _run(values: dict[str, Any], interruption: Interruption | None, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    # Loading workers are forked too, and so have nothing to import.
    multiprocessing.set_start_method("fork", force=True)
    if interruption is not None:
        _interrupt(interruption)
    try:
        pretrain(**values)
    except Exception as error:
        (values["out"] / f"error {process_rank(values['trainer'])}").write_text(repr(error))
        raise


def _interrupt(interruption: Interruption) -> None:
    train = LanguageModel.training_step

    def training_step(self: LanguageModel, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        if batch_idx == interruption.microbatch:
            if isinstance(interruption.by, Exception):
                raise interruption.by
            os.kill(os.getpid(), interruption.by)
        return train(self, batch, batch_idx)

    LanguageModel.training_step = training_step
