"""`bioaudio plan`: what a length schedule would read, counted from intervals alone."""

from __future__ import annotations

from pathlib import Path

from bioaudio_data.bed import read_bed
from bioaudio_data.genome import GenomeStore
from bioaudio_data.leakage import find_leaks
from bioaudio_data.splits import Splits, split_by_column, split_by_fraction
from bioaudio_data.windows import StagePlan, WindowRule, Windows, plan_stages

PAPER_LENGTHS = tuple(2**power for power in range(10, 21))


def plan(
    *,
    bed: Path | None = None,
    genome: Path | None = None,
    split: str = "train",
    rule: WindowRule = "mamba",
    lengths: tuple[int, ...] = PAPER_LENGTHS,
    tokens_per_step: int = 2**24,
    epochs: float = 2.0,
    sort_bed: bool = False,
    guard: int | None = None,
    check_leakage: bool = False,
    max_shift: int = 0,
) -> str:
    """Print windows, tokens and steps for each length of a pretraining, without running it.

    Args:
        bed: Intervals with a fourth column of train, valid or test. No genome is needed beside it; if one is
            given, the intervals must lie inside its contigs.
        genome: Genome store; without --bed it is split by position, 80, 10 and 10 % of every contig.
        split: Split to count.
        rule: How windows are cut from the split's segments.
        lengths: Bases in a window, one stage each.
        tokens_per_step: Tokens of an optimizer step, at every length.
        epochs: Passes over the windows at each length.
        sort_bed: Accept a BED whose intervals are in any order.
        guard: Bases left out at each border between splits of a genome without a BED.
        check_leakage: Also say which splits share bases at these lengths.
        max_shift: Shift of the augmentation that the leakage check allows for, in bases.
    """
    store = None if genome is None else GenomeStore.open(genome)
    contigs = None if store is None else store.contigs
    if bed is not None:
        splits = split_by_column(read_bed(bed, contigs, sort=sort_bed))
    elif contigs is not None:
        splits = split_by_fraction(contigs, guard=guard)
    else:
        raise ValueError("nothing to plan for: give --bed FILE, or --genome FOLDER of a genome store")
    if split not in splits:
        raise ValueError(f"there is no split {split!r}: choose --split from {', '.join(splits)}")
    counts = {length: len(Windows(splits[split], length, rule, contigs)) for length in lengths}
    stages = plan_stages(counts, tokens_per_step=tokens_per_step, epochs=epochs)
    parts = [_table(stages, tokens_per_step)]
    if check_leakage:
        leaks = find_leaks(splits, lengths, rule, contigs, max_shift=max_shift)
        parts += [f"leakage: {leak}" for leak in leaks] or [f"no leakage between {_names(splits)}"]
    return "\n".join(parts)


def _table(stages: list[StagePlan], tokens_per_step: int) -> str:
    head = ("length", "windows", "batch", "tokens/epoch", "epochs", "steps")
    rows = [
        (
            *(f"{number:,}" for number in (stage.length, stage.windows, stage.batch_size, stage.tokens)),
            f"{stage.epochs:g}",
            f"{stage.steps:,}",
        )
        for stage in stages
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)
    ]
    exact = sum(stage.epochs * stage.tokens for stage in stages) / tokens_per_step
    steps = sum(stage.steps for stage in stages)
    return "\n".join([*lines, f"{steps:,} steps in all ({exact:,.1f} before each stage is rounded)"])


def _names(splits: Splits) -> str:
    return ", ".join(f"{name} ({len(segments):,} segments)" for name, segments in splits.items())
