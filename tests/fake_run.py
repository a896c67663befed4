"""A run's folder as a real run leaves it, with made-up numbers: to test the report, and to look at it."""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from bioaudio_recipes.run_folder import RunFolder, write_json

APES = ("human", "chimpanzee", "gorilla", "orangutan")
LENGTHS = (1024, 4096, 16384, 65536)
STEPS = 1200
BASELINES = (("order-8", 8, 3.6638), ("order-12 back-off", 12, 3.5921), ("order-16 back-off", 16, 3.584),
             ("order-16 interpolated", 16, 3.5795))  # fmt: skip
CONFIG = """out: runs/apes
data:
  genomes:
  - stores/human
  split: fraction
schedule:
  stages:
  - {length: 1024, steps: 300}
  - {length: 4096, steps: 300}
"""


def write_fake_run(
    root: Path, classes: Sequence[str] = APES, genome: str = "human_chr22", config: str = CONFIG
) -> Path:
    """Write all parts of a run below `root`; the names may be as hostile as a test wants."""
    folder = RunFolder(root).create()
    write_json(
        folder.environment,
        {
            "command": "bioaudio pretrain --config pretrain/great_apes_chr22 --out runs/apes",
            "started": "2026-11-22T17:04:11Z",
            "python": "3.12.3",
            "platform": "Linux-6.8.0-x86_64",
            "device": "NVIDIA H100 80GB HBM3",
            "packages": {"bioaudio-mamba": "0.1.0", "torch": "2.11.0", "triton": "3.6.0", "numba": None},
        },
    )
    folder.config.write_text(config, encoding="utf-8")
    _write_rows(folder.metrics, _pretraining_rows())
    write_json(folder.evaluation / "perplexity.json", _perplexity(genome))
    write_json(folder.evaluation / "classification.json", _classification(classes))
    for length in (1024, 16384):
        finetune = RunFolder(root / "finetune" / f"length-{length}")
        finetune.root.mkdir(parents=True)
        _write_rows(finetune.metrics, _finetuning_rows(length))
    return root


def _pretraining_rows() -> Iterable[dict[str, float]]:
    noise = random.Random(0)
    for step in range(0, STEPS + 1, 5):
        length = LENGTHS[min(max(step - 1, 0) * len(LENGTHS) // STEPS, len(LENGTHS) - 1)]
        bits = 1.76 + 1.6 * math.exp(-step / 25) + 0.18 * math.exp(-step / 250) + noise.gauss(0, 0.006)
        row = {"step": float(step)}
        if step:
            row |= {
                "train/loss": bits * math.log(2),
                "train/bits_per_base": bits,
                "train/perplexity": 2**bits,
                "train/length": length,
                "train/batch_size": 2**18 // length,
                "train/tokens": step * 2**18,
                "train/tokens_per_second": 2.05e6 * (1 + noise.gauss(0, 0.012)) - 12000 * math.log2(length),
                "train/lr": 8e-3 * min(step / 120, 0.5 + 0.5 * math.cos(math.pi * step / STEPS)),
                "train/grad_norm": 0.4 + 2 * math.exp(-step / 60) + abs(noise.gauss(0, 0.05)),
                "train/peak_memory_gb": 9.1 + 0.35 * LENGTHS.index(length),
            }
        if step % 100 == 0:
            for place, evaluated in enumerate(LENGTHS):
                value = 3.335 - 0.004 * place + (12.6 if step == 0 else 0.55 * math.exp(-step / 180))
                row |= {
                    f"val/perplexity@{evaluated}": value,
                    f"val/bits_per_base@{evaluated}": math.log2(value),
                }
        yield row


def _finetuning_rows(length: int) -> Iterable[dict[str, float]]:
    noise = random.Random(length)
    for step in range(10, 401, 10):
        accuracy = 0.25 + 0.12 * (1 - math.exp(-step / 150)) + noise.gauss(0, 0.01)
        row = {"step": float(step), "train/loss": 1.38, "train/accuracy": accuracy, "train/length": length}
        yield row | ({f"val/accuracy@{length}": accuracy - 0.02} if step % 50 == 0 else {})


def _perplexity(genome: str) -> dict[str, object]:
    lengths = []
    for place, length in enumerate(LENGTHS):
        perplexity = 3.377 - 0.006 * place + 0.001 * place**2
        lengths.append(
            {
                "length": length,
                "perplexity": perplexity,
                "bits_per_base": math.log2(perplexity),
                "bases": 30 * 65536 - 30 * 65536 // length,
                "by_position": _positions(length),
            }
        )
    return {
        "kind": "perplexity",
        "genome": genome,
        "split": "test",
        "model": {"parameters": 1401472, "d_model": 128, "n_layer": 12},
        "lengths": lengths,
        "baselines": [
            {"name": n, "order": order, "perplexity": p, "bits_per_base": math.log2(p), "bases": 1966050}
            for n, order, p in BASELINES
        ],
        "date": "2026-11-22T17:12:40Z",
        "command": "bioaudio evaluate runs/apes",
        "device": "NVIDIA H100 80GB HBM3",
    }


def _positions(length: int) -> list[dict[str, float]]:
    edges = sorted({math.ceil(2 ** (i / 2)) for i in range(2 * int(math.log2(length)))} | {length})
    return [
        {
            "first": first,
            "last": end - 1,
            "bits_per_base": 1.752 + 0.26 / first**0.6,
            "bases": (end - first) * 30 * 65536 // length,
        }
        for first, end in pairwise(edges)
    ]


def _classification(classes: Sequence[str]) -> dict[str, object]:
    lengths = []
    for place, length in enumerate(LENGTHS):
        right, total = 34 + 9 * place, 100
        wrong = (total - right) // (len(classes) - 1)
        rows = [[wrong] * len(classes) for _ in classes]
        for i, row in enumerate(rows):
            row[i] = total - wrong * (len(classes) - 1)
        accuracy = rows[0][0] / total
        lengths.append(
            {
                "length": length,
                "accuracy": accuracy,
                "accuracy_95": [accuracy - 0.045, accuracy + 0.048],
                "recall": {
                    name: row[i] / total for i, (name, row) in enumerate(zip(classes, rows, strict=True))
                },
                "confusion": rows,
                "windows": total * len(classes),
            }
        )
    return {
        "kind": "classification",
        "classes": list(classes),
        "lengths": lengths,
        "chance": 1 / len(classes),
        "date": "2026-11-22T17:30:02Z",
        "command": "bioaudio finetune --out runs/apes",
        "device": "NVIDIA H100 80GB HBM3",
    }


def _write_rows(path: Path, rows: Iterable[Mapping[str, float]]) -> None:
    found = list(rows)
    columns = list(dict.fromkeys(name for row in found for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(found)
