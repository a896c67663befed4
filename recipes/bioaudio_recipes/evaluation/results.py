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
    scores: Sequence[LengthScore],
    baselines: Sequence[BaselineScore],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of perplexity.json.

    Args:
        model: that was scored.
        scores: one a length.
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
        "lengths": [
            {
                "length": score.length,
                "perplexity": score.perplexity,
                "bits_per_base": score.bits_per_base,
                "bases": int(score.bases.sum()),
                "by_position": score.by_position(),
            }
            for score in scores
        ],
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


def results_table(results: Mapping[str, Any]) -> str:
    """The results as text in columns: lengths first, then baselines."""
    rows = [("", "perplexity", "bits per base", "bases predicted")]
    rows += [_row(f"model at {entry['length']:,}", entry) for entry in results["lengths"]]
    rows += [_row(entry["name"], entry) for entry in results["baselines"]]
    width = max(len(row[0]) for row in rows)
    return "\n".join(
        f"{name:<{width}}  {perplexity:>10}  {bits:>13}  {bases:>15}"
        for name, perplexity, bits, bases in rows
    )


def _row(name: str, entry: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return name, f"{entry['perplexity']:.4f}", f"{entry['bits_per_base']:.4f}", f"{entry['bases']:,}"
