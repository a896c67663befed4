"""The genomes, splits and lengths of an evaluation: those of the run's config.yaml, with what is changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from bioaudio_recipes.pretrain.genome_data import GenomeData
from bioaudio_recipes.run_folder import RunFolder

DEFAULT_LENGTHS = (1024, 4096, 16384, 65536)


def read_config(run: RunFolder) -> dict[str, Any]:
    """The content of a pretraining's config.yaml.

    Raises:
        ValueError: if the file is no YAML, or not of a pretraining.
        FileNotFoundError: if there is no file.
    """
    if not run.config.is_file():
        raise FileNotFoundError(f"{run.config} is missing: not a run's folder, or the run was never started")
    try:
        config = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{run.config} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict) or not isinstance(config.get("data"), dict):
        raise ValueError(f"{run.config} is not a pretraining's (no key data): give the folder of the model")
    return config


def run_lengths(config: dict[str, Any]) -> list[int]:
    """The lengths that the run was validated at, which are those of its stages unless it says otherwise."""
    stages = (config.get("schedule") or {}).get("stages") or []
    lengths = (config.get("validation") or {}).get("lengths") or [stage["length"] for stage in stages]
    return lengths or list(DEFAULT_LENGTHS)


def override_split(
    data: dict[str, Any],
    *,
    bed: Path | None = None,
    guard: int | None = None,
    fractions: dict[str, tuple[float, float] | None],
    contigs: dict[str, list[str]],
) -> dict[str, Any]:
    """`data` with another division: a BED file, contigs or fractions replace what was there before.

    Raises:
        ValueError: for two kinds of division at once.
    """
    given_fractions = {name: value for name, value in fractions.items() if value is not None}
    kinds = {"bed": bed is not None, "contig": any(contigs.values()), "fraction": bool(given_fractions)}
    chosen = [kind for kind, is_given in kinds.items() if is_given]
    if len(chosen) > 1:
        raise ValueError("--bed, --valid_contigs with --test_contigs, and fractions exclude one another")
    if chosen:
        data = data | {"split": chosen[0], "bed": bed}
        data |= {f"{name}_contigs": tuple(names) for name, names in contigs.items()}
        data |= given_fractions
    return data if guard is None else data | {"guard": guard}


def checked(data: dict[str, Any], source: str) -> GenomeData:
    """The `GenomeData` that plain values describe.

    Raises:
        ValueError: naming the source and the key that does not fit.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=GenomeData)
    try:
        return parser.instantiate(parser.parse_object({"data": data}))["data"]
    except (ArgumentError, TypeError) as error:
        raise ValueError(f"{source}: {' '.join(str(error).split())}") from error
