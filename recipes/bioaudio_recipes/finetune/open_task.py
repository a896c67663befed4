"""From the command's arguments to a task: genomes by class, or a CSV of labelled sequences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bioaudio_recipes.finetune.genome_task import GenomeTask
from bioaudio_recipes.finetune.genomes import GenomeSplits, open_genomes
from bioaudio_recipes.finetune.labelled_csv import read_labelled_csv
from bioaudio_recipes.finetune.sequence_task import SequenceTask
from bioaudio_recipes.finetune.task import Task
from bioaudio_recipes.finetune.windows import ContigWeight


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How training examples are drawn."""

    contig_weight: ContigWeight = "uniform"
    """With --classes: contigs are equally likely, or in proportion to the windows they hold (length)."""
    reverse_complement: float = 0.0
    """Probability that a training example is read from the opposite strand."""
    test_fraction: float = 0.2
    """With --sequences and no split column: share of every class's rows that is held out."""

    def __post_init__(self) -> None:
        if not 0 <= self.reverse_complement <= 1:
            raise ValueError(f"--sampling.reverse_complement lies in [0, 1], got {self.reverse_complement}")
        if not 0 < self.test_fraction < 1:
            raise ValueError(f"--sampling.test_fraction lies in (0, 1), got {self.test_fraction}")


def open_task(
    classes: Mapping[str, Path] | None,
    sequences: Path | None,
    length: int | None,
    splits: GenomeSplits,
    sampling: Sampling,
    *,
    converted: Path,
    seed: int,
) -> tuple[Task, int]:
    """The task, and the length to train at: that which is given, or of the longest sequence.

    Args:
        classes: genome of each class.
        sequences: CSV of labelled sequences; one of the two is given.
        length: bases in an example, needed with `classes`.
        splits: how genomes are divided.
        sampling: how training examples are drawn.
        converted: where stores made of FASTA files are kept.
        seed: of the test rows of a CSV without a split column.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the arguments do not go together, or a file is no good.
    """
    if (not classes) == (sequences is None):
        raise ValueError("give either --classes.NAME PATH for each genome, or --sequences with a CSV")
    if length is not None and length < 1:
        raise ValueError(f"--length must be 1 or more, got {length}")
    if sequences is not None:
        data = read_labelled_csv(sequences, test_fraction=sampling.test_fraction, seed=seed)
        task = SequenceTask(data=data, reverse_complement=sampling.reverse_complement)
        return task, data.longest if length is None else length
    if length is None:
        raise ValueError("--length is missing: the bases in a window, as 1024")
    stores = open_genomes(classes or {}, converted)
    task = GenomeTask(
        stores=stores,
        segments=splits.divide(stores),
        contig_weight=sampling.contig_weight,
        reverse_complement=sampling.reverse_complement,
    )
    return task, length
