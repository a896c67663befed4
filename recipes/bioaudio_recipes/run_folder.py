"""One run, one folder: configuration, environment, metrics, checkpoints, model, evaluations and report."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGES = ("bioaudio-mamba", "torch", "triton", "numba", "numpy", "lightning", "safetensors")


@dataclass(frozen=True)
class RunFolder:
    """Where each product of a run lies below `root`; commands write nowhere else."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved arguments of the run, as YAML that `--config` reads back."""
        return self.root / "config.yaml"

    @property
    def environment(self) -> Path:
        """Versions, device, command line and start time."""
        return self.root / "environment.json"

    @property
    def metrics(self) -> Path:
        """One row a logged step; blank cells where a column was not measured at that step."""
        return self.root / "metrics.csv"

    @property
    def tensorboard(self) -> Path:
        """Event files of the same metrics."""
        return self.root / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """Training checkpoints, from which `--resume auto` goes on."""
        return self.root / "checkpoints"

    @property
    def model(self) -> Path:
        """The trained model: config.json and model.safetensors."""
        return self.root / "model"

    @property
    def evaluation(self) -> Path:
        """JSON results: perplexity.json, classification.json."""
        return self.root / "evaluation"

    @property
    def report(self) -> Path:
        """The self-contained HTML page."""
        return self.root / "report.html"

    def create(self) -> RunFolder:
        """Make the folder (parents too) and write environment.json; an existing folder is kept."""
        self.root.mkdir(parents=True, exist_ok=True)
        if not self.environment.exists():
            write_json(self.environment, describe_environment())
        return self

    def require(self) -> RunFolder:
        """Check that this is a run's folder.

        Raises:
            FileNotFoundError: if the folder or its environment.json is missing.
        """
        if not self.environment.is_file():
            raise FileNotFoundError(f"{self.root} is not a run folder: it has no {self.environment.name}")
        return self


def describe_environment() -> dict[str, Any]:
    """Versions, machine, command line and the time now (UTC, ISO 8601)."""
    import torch

    return {
        "command": "bioaudio " + " ".join(sys.argv[1:]),
        "started": now(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def device_name(device: Any) -> str:
    """A device as a report names it: `NVIDIA H100 80GB HBM3`, or `CPU, 2 cores`."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {os.cpu_count()} cores"


def now() -> str:
    """The time in UTC, ISO 8601 to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
