"""scores.json and the table that the command prints: what each contig cost."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bioaudio_recipes.run_folder import now
from bioaudio_recipes.scoring.contig import ContigScore

MOST_ROWS = 30
"""Rows of contigs that are printed; the file has them all."""
MEANING = (
    "log2 of the probability of each base, given all bases before it (forward) or after it (reverse) in its "
    "contig; -2 is a blind guess among four"
)


def scores_summary(scores: Sequence[ContigScore], about: Mapping[str, Any]) -> dict[str, Any]:
    """The content of scores.json: every contig of every strand, and each strand's total."""
    strands = {score.strand: None for score in scores}
    return {
        "kind": "scores",
        "unit": "bits",
        "meaning": MEANING,
        **about,
        "total": [_total([s for s in scores if s.strand == strand]).to_dict() for strand in strands],
        "contigs": [score.to_dict() for score in scores],
        "date": now(),
        "command": "bioaudio " + " ".join(sys.argv[1:]),
    }


def scores_table(summary: Mapping[str, Any]) -> str:
    """The summary as text in columns, the totals last."""
    contigs = summary["contigs"]
    shown = contigs[:MOST_ROWS] + (summary["total"] if len(contigs) > len(summary["total"]) else [])
    rows = [("contig", "strand", "bases scored", "N skipped", "bits per base", "perplexity")]
    rows += [_row(entry) for entry in shown]
    width = max(len(row[0]) for row in rows)
    lines = [
        f"{name:<{width}}  {strand:<7}  {bases:>13}  {skipped:>11}  {bits:>13}  {perplexity:>10}"
        for name, strand, bases, skipped, bits, perplexity in rows
    ]
    if len(contigs) > MOST_ROWS:
        lines.insert(1 + MOST_ROWS, f"... and {len(contigs) - MOST_ROWS:,} more rows in scores.json")
    return "\n".join(lines)


def _total(scores: Sequence[ContigScore]) -> ContigScore:
    return ContigScore(
        "all",
        scores[0].strand,
        length=sum(score.length for score in scores),
        bases=sum(score.bases for score in scores),
        skipped=sum(score.skipped for score in scores),
        bits=sum(score.bits for score in scores),
    )


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    measured = [entry["bits_per_base"], entry["perplexity"]]
    return (
        entry["contig"],
        entry["strand"],
        f"{entry['bases']:,}",
        f"{entry['skipped']:,}",
        *("-" if value is None else f"{value:.4f}" for value in measured),
    )
