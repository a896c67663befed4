"""Which activations a training step keeps: the choice between modes, from an estimate and a budget.

- full: all that the blocks keep for the backward pass.
- blocks: what enters each block; blocks run again in the backward pass.
- chunks: full, of one chunk of time; all but the last chunk's forward pass run again (`sum_over_chunks`).

All three give the same gradients, full and blocks to the bit.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from tqdm import tqdm

from bioaudio_mamba import Mamba, MambaConfig, Sashimi, SashimiConfig
from bioaudio_recipes.training.block_memory import Mode, bytes_per_sample, bytes_per_token
from bioaudio_recipes.training.free_memory import free_bytes

MEMORY = "bioaudio_memory"
"""Key of the plan in a checkpoint."""
MODES: tuple[Mode, ...] = ("full", "blocks", "chunks")
SHARE_OF_CPU, SHARE_OF_GPU = 0.6, 0.85
"""Of the free memory, for activations: the rest is for what the estimate leaves out."""
CHUNK_TOKENS = 2**17
"""Tokens of a chunk, over all rows of a batch, where nothing else says how many: enough to fill a GPU."""
LEAST_TOKENS = 2**8
ADAM_BYTES = 24
"""Of a parameter: its gradient (thrice, while a recorded pass hands it on), AdamW's two averages, and the
average of the weights."""
WORKSPACE_ON_GPU = 2**29
"""Bytes that the scans' backward passes work in, about, whatever the length."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What was chosen."""

    mode: Mode = "full"
    chunk_length: int | None = None
    """Time steps of a chunk, if given."""
    chunk_tokens: int = CHUNK_TOKENS
    """If not: tokens of a chunk over all rows."""

    def chunk_length_of(self, rows: int) -> int | None:
        """Time steps of a chunk in a batch of so many rows; None where nothing is cut."""
        if self.mode != "chunks":
            return None
        return self.chunk_length or max(1, self.chunk_tokens // rows)


@dataclass(frozen=True, kw_only=True)
class MemoryPlanner:
    """Chooses how a run of one model and one size of micro-batch keeps its activations."""

    memory: Literal["auto"] | Mode
    """As asked for."""
    chunk_length: int | None
    """As asked for."""
    model: MambaConfig | SashimiConfig
    tokens: int
    """Of the largest micro-batch."""
    half: bool
    """Whether products run in half precision."""
    parameters: int
    """Of the model."""
    compiled: bool = False
    """Whether the model goes through torch.compile."""
    processes: int = 1
    """Of the run on this host; on a CPU they share its memory."""
    progress: bool = False
    """Whether to show the choice on the terminal."""

    def choose(self, device: torch.device) -> MemoryPlan:
        """What was asked for, or the first of full, blocks and chunks that fits the device's free memory.

        Who gives a chunk length asks for chunks.
        """
        budget = self._budget(device)
        mode = self.memory
        if mode == "auto":
            mode = self.fitting(device, budget) if self.chunk_length is None else "chunks"
        per_token = self._per_token("chunks", device)
        tokens = max(LEAST_TOKENS, min(CHUNK_TOKENS, 2 ** (max(1, budget // per_token).bit_length() - 1)))
        return MemoryPlan(mode=mode, chunk_length=self.chunk_length, chunk_tokens=tokens)

    def fitting(self, device: torch.device, budget: int, *, after: Mode | None = None) -> Mode:
        """The first mode (after another one) whose estimate is within the budget; chunks if none is."""
        candidates = MODES[:2] if after is None else MODES[MODES.index(after) + 1 : 2]
        for mode in candidates:
            if self.tokens * self._per_token(mode, device) <= budget:
                return mode
        return "chunks"

    def describe(self, plan: MemoryPlan, device: torch.device) -> str:
        """The choice and its reason, in one line."""
        estimates = ", ".join(
            f"{mode} {self.tokens * self._per_token(mode, device) / 1e9:,.1f} GB" for mode in MODES[:2]
        )
        chunk = ""
        if plan.mode == "chunks":
            cut = f"{plan.chunk_length:,} steps" if plan.chunk_length else f"{plan.chunk_tokens:,} tokens"
            chunk = f" of {cut}"
        return (
            f"memory: {plan.mode}{chunk}; micro-batches of {self.tokens:,} tokens need about {estimates}, "
            f"{self._budget(device) / 1e9:,.1f} GB are there for them"
        )

    def advice(self, plan: MemoryPlan, device: torch.device, rows: int) -> str:
        """What to do where the memory was not enough for a plan and a batch of so many rows."""
        length = plan.chunk_length_of(rows)
        if length is not None:
            return (
                f"give --trainer.chunk_length {max(1, length // 4)}, or fewer --trainer.tokens_per_microbatch"
            )
        total = torch.cuda.get_device_properties(device).total_memory if _on_gpu(device) else 0
        if self.fitting(device, int(_share(device) * total), after=plan.mode) == "blocks":
            return "--trainer.memory blocks would fit"
        # Not --trainer.memory chunks: a run that has begun with auto goes on with auto.
        length = MemoryPlan(mode="chunks").chunk_length_of(rows)
        return f"--trainer.memory auto --trainer.chunk_length {length} would fit"

    def _per_token(self, mode: Mode, device: torch.device) -> int:
        options = {"half": self.half, "on_gpu": _on_gpu(device), "compiled": self.compiled}
        if isinstance(self.model, SashimiConfig):
            return bytes_per_sample(self.model, mode, **options)
        return bytes_per_token(self.model, mode, **options)

    def _budget(self, device: torch.device) -> int:
        free = free_bytes(device) // (1 if _on_gpu(device) else self.processes)
        workspace = WORKSPACE_ON_GPU if _on_gpu(device) else 0
        return max(0, int(_share(device) * (free - ADAM_BYTES * self.parameters - workspace)))


def _on_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


def _share(device: torch.device) -> float:
    return SHARE_OF_GPU if _on_gpu(device) else SHARE_OF_CPU


class TrainingMemory:
    """The plan of a run: chosen on its device, or taken from the checkpoint that it goes on from.

    Args:
        planner: chooses; None keeps all activations.
    """

    def __init__(self, planner: MemoryPlanner | None) -> None:
        self._planner = planner
        self._plan: MemoryPlan | None = None
        self._rows = 1

    @property
    def plan(self) -> MemoryPlan:
        """The one in force."""
        return self._plan or MemoryPlan()

    def chunk_length_of(self, rows: int) -> int | None:
        """Time steps of a chunk in a batch of so many rows, the batch that `explain` then speaks of."""
        self._rows = rows
        return self.plan.chunk_length_of(rows)

    def settle(self, trainer: Trainer, device: torch.device, backbone: Mamba | Sashimi) -> None:
        """Choose unless that is done, on the first rank for all, say so, and set the model up."""
        if self._planner is not None:
            if self._plan is None:
                self._plan = trainer.strategy.broadcast(self._planner.choose(device))
            if trainer.is_global_zero:
                text = self._planner.describe(self.plan, device)
                logger.info("%s", text)
                if self._planner.progress:
                    tqdm.write(text, file=sys.stderr)
        backbone.checkpoint_blocks = self.plan.mode == "blocks"

    @contextmanager
    def explain(self, device: torch.device) -> Iterator[None]:
        """Turn running out of memory into an error that says what would fit.

        Raises:
            ValueError: in place of `torch.OutOfMemoryError`, or of the RuntimeError that a CPU raises.
        """
        try:
            yield
        except RuntimeError as error:  # of which OutOfMemoryError is one
            exhausted = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
            if self._planner is None or not exhausted:
                raise
            raise ValueError(
                f"out of memory with --trainer.memory {self.plan.mode} and micro-batches of "
                f"{self._planner.tokens:,} tokens: {self._planner.advice(self.plan, device, self._rows)}"
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """The plan, for a checkpoint."""
        return asdict(self.plan)

    def resume(self, saved: Mapping[str, Any] | None) -> None:
        """Keep to the plan of a checkpoint, unless another one is asked for: chunks change the rounding."""
        asked = self._planner
        if saved is None or asked is None or asked.chunk_length not in (None, saved["chunk_length"]):
            return
        if asked.memory in ("auto", saved["mode"]):
            self._plan = MemoryPlan(**saved)
