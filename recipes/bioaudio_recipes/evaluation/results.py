"""evaluation/perplexity.json and the table that the command prints."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bioaudio_mamba import CausalLM, count_parameters
from bioaudio_recipes.counting import BaselineScore
from bioaudio_recipes.evaluation.perplexity import LengthScore
from bioaudio_recipes.run_folder import now


def perplexity_results(
    model: CausalLM,
    lengths: Sequence[Mapping[str, Any]],
    baselines: Sequence[BaselineScore],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of perplexity.json.

    Args:
        model: that was scored.
        lengths: a `length_entry` each, shortest first; one of whole segments or contigs has the key `whole`.
        baselines: scores of counting models on the same bases; may be empty.
        about: what else to say: genome, split, device, precision ...
    """
    return {
        "kind": "perplexity",
        **about,
        "model": {
            "parameters": count_parameters(model),
            "d_model": model.config.d_model,
            "n_layer": model.config.n_layer,
        },
        "lengths": list(lengths),
        "baselines": [
            {
                "name": score.baseline.name,
                "order": score.baseline.order,
                "perplexity": score.perplexity,
                "bits_per_base": score.bits_per_base,
                "bases": score.bases,
            }
            for score in baselines
        ],
        "date": now(),
        "command": "bioaudio " + " ".join(sys.argv[1:]),
    }


def length_entry(score: LengthScore) -> dict[str, Any]:
    """What perplexity.json says of one length."""
    return {
        "length": score.length,
        "perplexity": score.perplexity,
        "bits_per_base": score.bits_per_base,
        "bases": int(score.bases.sum()),
        "by_position": score.by_position(),
    }


def length_name(entry: Mapping[str, Any]) -> str:
    """A length as tables name it: `windows of 1,024`, or `whole segments, up to 1,958,989`."""
    whole = entry.get("whole")
    return f"whole {whole}s, up to {entry['length']:,}" if whole else f"windows of {entry['length']:,}"


def results_table(results: Mapping[str, Any]) -> str:
    """The results as text in columns, lengths first, then baselines; and which bases they are of."""
    rows = [("", "perplexity", "bits per base", "bases predicted")]
    rows += [_row(f"model, {length_name(entry)}", entry) for entry in results["lengths"]]
    rows += [_row(entry["name"], entry) for entry in results["baselines"]]
    width = max(len(row[0]) for row in rows)
    longest = max(entry["length"] for entry in results["lengths"] if not entry.get("whole"))
    return "\n".join(
        [
            *(
                f"{name:<{width}}  {perplexity:>10}  {bits:>13}  {bases:>15}"
                for name, perplexity, bits, bases in rows
            ),
            f"read: {results['bases_read']:,} of the {results['bases_in_split']:,} bases of the split, "
            f"each segment from its start to the last multiple of {longest:,}",
        ]
    )


def _row(name: str, entry: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return name, f"{entry['perplexity']:.4f}", f"{entry['bits_per_base']:.4f}", f"{entry['bases']:,}"
