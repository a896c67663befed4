"""`bioaudio demo`: the main job on real DNA, from FASTA to report, on any machine."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bioaudio_data.samples import great_apes_chr22
from tqdm import tqdm

from bioaudio_recipes import cli
from bioaudio_recipes.run_folder import RunFolder

QUICK = {
    "pretrain": [
        "--schedule.stages",
        "[{length: 256, steps: 3}, {length: 1024, steps: 2}, {length: 4096, steps: 2}]",
    ],
    "finetune": ["--schedule.epochs=2", "--schedule.steps_per_epoch=2", "--evaluation.windows=4"],
}
"""What cuts a command of the demo down to a few steps."""


def demo(*, out: Path = Path("demo-run"), quick: bool = False) -> str:
    """Prepare four ape genomes, pretrain, fine-tune the species classifier, evaluate and write the report.

    Every step is an ordinary `bioaudio` command, shown as it starts. A demo that was stopped goes on.

    Args:
        out: run folder to write.
        quick: take a few steps of everything, to see that an installation works.
    """
    folder = RunFolder(out)
    return run_story(folder, list(_steps(folder)), QUICK if quick else {})


def run_story(folder: RunFolder, steps: Sequence[list[str]], added: Mapping[str, list[str]]) -> str:
    """Run commands one after another, each shown as it starts; `added` are more arguments of some."""
    start = time.monotonic()
    for number, (command, *arguments) in enumerate(steps, start=1):
        arguments += added.get(command, [])
        tqdm.write(f"\n[{number}/{len(steps)}] bioaudio {command} {' '.join(arguments)}", file=sys.stderr)
        result = cli.run(command, arguments)
        if result:
            tqdm.write(result, file=sys.stderr)
    return f"demo done in {time.monotonic() - start:.0f} s; the report: {folder.report.resolve()}"


def _steps(folder: RunFolder) -> Iterator[list[str]]:
    """The commands of the demo; genomes that are already stored are not stored again."""
    genomes = {species: folder.root / "genomes" / species for species in great_apes_chr22()}
    for species, fasta in great_apes_chr22().items():
        if not genomes[species].exists():
            yield ["prepare-genome", str(fasta), "--out", str(genomes[species])]
    stores = ",".join(map(str, genomes.values()))
    yield ["pretrain", "--config", "pretrain/demo", "--out", str(folder.root), f"--data.genomes=[{stores}]"]
    classes = [f"--classes.{species}={path}" for species, path in genomes.items()]
    yield [
        "finetune",
        "--config",
        "finetune/demo",
        "--out",
        str(folder.root),
        f"--init_from={folder.model}",
        *classes,
    ]
    yield ["evaluate", str(folder.root)]
    yield ["report", str(folder.root)]
