"""Checkpoint files of a run: written whole or not at all, the last few kept, the newest sound one found."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer

logger = logging.getLogger(__name__)
SUFFIX = ".ckpt"
NUMBERS = "bioaudio_numbers"
"""Key of a checkpoint that holds every setting its numbers depend on."""
_DAMAGE = (RuntimeError, EOFError, OSError, KeyError, ValueError, pickle.UnpicklingError)

Resume = Literal["auto", "never"] | Path


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found whole."""

    path: Path
    step: int
    """Optimizer steps done."""
    numbers: Mapping[str, Any]
    """Settings that its numbers depend on, flat."""


class CheckpointFolder:
    """`step-00000123.ckpt` files, of which the newest `keep` are kept."""

    def __init__(self, path: Path, keep: int = 2) -> None:
        self.path = path
        self.keep = keep

    def files(self) -> list[Path]:
        """From the oldest to the newest."""
        return sorted(self.path.glob(f"step-*{SUFFIX}"))

    def save(self, trainer: Trainer, step: int) -> Path:
        """Write the trainer's state; every rank calls this, the first one writes.

        A run that is killed on the way leaves the earlier checkpoints as they were.
        """
        path = self.path / f"step-{step:08d}{SUFFIX}"
        partial = path.with_suffix(".partial")
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            trainer.save_checkpoint(partial)
            if trainer.is_global_zero:
                _to_disk(partial)
                partial.replace(path)
                for old in self.files()[: -self.keep]:
                    old.unlink()
        finally:
            if trainer.is_global_zero:
                partial.unlink(missing_ok=True)
        trainer.strategy.barrier()
        return path

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that can be read; a damaged one is passed over with a warning."""
        for path in reversed(self.files()):
            try:
                return read_checkpoint(path)
            except ValueError as error:
                logger.warning("%s; going back to an earlier checkpoint", error)
        return None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint whole, without running anything it holds.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, or not one of these runs'.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--resume {path}: there is no such checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return Checkpoint(path, content["global_step"], content[NUMBERS])
    except _DAMAGE as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"checkpoint {path} is damaged or not of such a run ({reason})") from error


def find_checkpoint(
    folder: CheckpointFolder, resume: Resume, numbers: Mapping[str, Any]
) -> Checkpoint | None:
    """The checkpoint that a run goes on from, or None to start at step 0.

    Args:
        folder: of the run.
        resume: "auto" for the newest checkpoint of the folder if it has one, "never", or a checkpoint's path.
        numbers: every setting that the numbers of this run depend on.

    Raises:
        FileNotFoundError: for a path that is not there.
        ValueError: if a setting differs from the checkpoint's, or "never" would write over an earlier run.
    """
    if resume == "never":
        if folder.files():
            raise ValueError(
                f"{folder.path} already holds the checkpoints of a run; give --resume auto to go on with it, "
                "or another --out"
            )
        return None
    checkpoint = folder.newest() if resume == "auto" else read_checkpoint(Path(resume))
    if checkpoint is not None:
        _check_same(checkpoint, flatten(numbers))
    return checkpoint


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one of dotted keys; sequences become lists."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = list(value) if isinstance(value, tuple) else value
    return flat


def _check_same(checkpoint: Checkpoint, numbers: Mapping[str, Any]) -> None:
    before = checkpoint.numbers
    different = [key for key in {**before, **numbers} if before.get(key) != numbers.get(key)]
    if different:
        first = different[0]
        others = f" ({', '.join(different[1:4])} differ too)" if different[1:] else ""
        raise ValueError(
            f"cannot resume from {checkpoint.path}: {first} was {before.get(first)!r}, now it is "
            f"{numbers.get(first)!r}{others}; give the same settings, or another --out"
        )


def _to_disk(path: Path) -> None:
    """Wait until the content is on the disk, so that its new name never outlives a crash without it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
