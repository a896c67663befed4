"""The files of a benchmark: all figures and where they come from as JSON, and the plots."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from bioaudio_recipes.bench.plan import Race
from bioaudio_recipes.bench.plot import memory_plot, race_plot
from bioaudio_recipes.bench.race import Heat
from bioaudio_recipes.bench.roofline import Device
from bioaudio_recipes.run_folder import describe_environment, now, write_json


def write_record(
    out: Path,
    what: str,
    heats: Mapping[Race, Sequence[Heat]],
    *,
    device: Device,
    where: str,
    settings: Mapping[str, Any],
) -> list[Path]:
    """Write bench-WHAT.json, and for races that ran at several shapes an SVG of each pass and of memory.

    Returns:
        the files, the JSON first.
    """
    environment = describe_environment()
    contents = {
        "kind": "bench",
        "what": what,
        "command": environment["command"],
        "date": now(),
        "where": where,
        "device": asdict(device),
        "settings": dict(settings),
        "environment": environment,
        "versions": versions(chain.from_iterable(heats.values())),
        "races": [
            {"name": race.name, "title": race.title, "heats": [_heat(heat, device) for heat in results]}
            for race, results in heats.items()
        ],
    }
    files = [out / f"bench-{what}.json"]
    write_json(files[0], contents)
    for race, results in heats.items():
        title, plots = f"{race.title}, {where}", dict[str, str | None]()
        for measured in dict.fromkeys(name for h in results for r in h.results for name in r.milliseconds):
            plots[measured.replace(" + ", "-")] = race_plot(title, results, measured, race.against)
        plots["memory"] = memory_plot(title, results, race.against)
        for name, plot in plots.items():
            if plot is not None:
                path = out / f"bench-{race.name}-{name}.svg"
                path.write_text(plot, encoding="utf-8")
                files.append(path)
    return files


def versions(heats: Iterable[Heat]) -> dict[str, str | None]:
    """Versions of torch and of the packages that were to take part; None where one is not installed."""
    packages = {result.package for heat in heats for result in heat.results if result.package is not None}
    found: dict[str, str | None] = {}
    for package in ("torch", *sorted(packages)):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _heat(heat: Heat, device: Device) -> dict[str, Any]:
    ours = heat.results[0]
    return {
        "shape": asdict(heat.shape) | {"dtype": str(heat.shape.dtype).removeprefix("torch.")},
        "least": {
            name: asdict(work) | {"milliseconds": device.least_ms(work)} for name, work in heat.work.items()
        },
        "results": [
            asdict(result)
            | {
                "ratio_to_ours": {
                    name: spent / ours.milliseconds[name]
                    for name, spent in result.milliseconds.items()
                    if name in ours.milliseconds
                }
            }
            for result in heat.results
        ],
    }
