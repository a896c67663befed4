"""`bioaudio evaluate`: perplexity by context length on held-out bases, beside counting models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from bioaudio_recipes.counting import DEFAULT_BASELINES, BaselineScore, CountingBaselines
from bioaudio_recipes.evaluation.held_out import HeldOutBases, Whole, split_symbols
from bioaudio_recipes.evaluation.open_model import open_model, weights_folder
from bioaudio_recipes.evaluation.perplexity import score_passages, score_windows
from bioaudio_recipes.evaluation.results import length_entry, perplexity_results, results_table
from bioaudio_recipes.evaluation.run_data import (
    DEFAULT_LENGTHS,
    checked,
    override_split,
    read_config,
    run_lengths,
)
from bioaudio_recipes.evaluation.streaming import Precision
from bioaudio_recipes.pretrain.genome_data import GenomeCorpus, GenomeData
from bioaudio_recipes.run_folder import RunFolder, device_name, write_json

VALID_BASES = 10_000_000
"""Validation bases on which the counting baselines are tuned, at most."""


def evaluate(
    model: Path,
    *,
    genome: Path | None = None,
    split: str = "test",
    lengths: list[int] | None = None,
    whole: Whole | None = None,
    bed: Path | None = None,
    train: tuple[float, float] | None = None,
    valid: tuple[float, float] | None = None,
    test: tuple[float, float] | None = None,
    guard: int | None = None,
    valid_contigs: list[str] | None = None,
    test_contigs: list[str] | None = None,
    baselines: bool = True,
    baseline_bases: int = 100_000_000,
    tokens_per_batch: int = 2**16,
    precision: Precision = "32-true",
    device: str = "auto",
    out: Path | None = None,
) -> str:
    """Perplexity and bits per base by context length on a held-out split, beside counting models.

    Args:
        model: A run's folder, or a folder with config.json and model.safetensors.
        genome: Genome store to predict; that of the run unless given.
        split: Which split to predict.
        lengths: Lengths of windows in bases, each dividing the longest: all read the same bases. Those that a
            run was validated at unless given, or 1024, 4096, 16384 and 65536 for a model without its run.
        whole: Also read the same bases without windows, streamed in constant memory: each segment of the
            split in one go, or each contig, whose bases before the segment (those of training too) are then
            context.
        bed: Divide by the fourth column of this BED file; as the run did unless given.
        train: Fractions of every contig where the training bases begin and end, for the counting models.
        valid: The same of the validation bases, on which the counting models are tuned.
        test: The same of the test bases.
        guard: Bases left out at each border between splits by fraction.
        valid_contigs: Whole contigs for validation; with test_contigs, and the rest for training.
        test_contigs: Whole contigs for the test.
        baselines: Whether to count, tune and score the counting models.
        baseline_bases: Training bases that are counted at most (16 bytes of memory each), spread evenly.
        tokens_per_batch: Tokens in one forward pass; longer windows are read in pieces, carrying the state.
        precision: bf16-mixed runs matrix products in bfloat16.
        device: Where the model runs: auto, cpu, cuda, cuda:1, ...
        out: File to write; evaluation/perplexity.json in the model's folder unless given.
    """
    is_run = weights_folder(model, "DNA") != model
    run = RunFolder(model)
    if out is not None and out.is_dir():
        raise IsADirectoryError(f"--out {out} is a folder; give a file, as {out / 'perplexity.json'}")
    if not is_run and genome is None:
        raise ValueError(
            f"{model} is no run's folder, so the genomes of its model are unknown: give --genome"
        )
    config = read_config(run) if is_run else {"data": {"genomes": [str(genome)]}}
    data = override_split(
        config["data"],
        bed=bed,
        guard=guard,
        fractions={"train": train, "valid": valid, "test": test},
        contigs={"valid": valid_contigs or [], "test": test_contigs or []},
    )
    trained_on = checked(data, str(run.config) if is_run else "arguments")
    tested_on = replace(trained_on, genomes=[genome]) if genome else trained_on
    wanted = sorted(set(lengths or (run_lengths(config) if is_run else DEFAULT_LENGTHS)))
    corpus = GenomeCorpus(tested_on)
    held_out = HeldOutBases(corpus, split, wanted)
    network = open_model(model, device)
    reading: dict[str, Any] = {"tokens_per_batch": tokens_per_batch, "precision": precision, "progress": True}
    scores = [score_windows(network, held_out.windows(length), **reading) for length in wanted]
    unwindowed = score_passages(network, held_out.passages(whole), **reading) if whole else None
    counted, counting_scores = (
        _score_baselines(trained_on, held_out, baseline_bases) if baselines else (0, [])
    )
    about = {
        "genome": ", ".join(store.name for store in corpus.stores),
        "split": split,
        "bases_read": held_out.bases,
        "bases_in_split": held_out.split_bases,
        "device": device_name(network.lm_head.weight.device),
        "precision": precision,
        "baseline_training_bases": counted,
    }
    entries = [length_entry(score) for score in scores]
    if unwindowed is not None:
        entries.append(length_entry(unwindowed) | {"whole": whole})
    results = perplexity_results(network, entries, counting_scores, about)
    path = out or run.evaluation / ("perplexity.json" if split == "test" else f"perplexity-{split}.json")
    write_json(path, results)
    return f"{results_table(results)}\n{path}"


def _score_baselines(
    trained_on: GenomeData, held_out: HeldOutBases, limit: int
) -> tuple[int, list[BaselineScore]]:
    """Bases that were counted, and a score for each counting model."""
    if limit < 1:
        raise ValueError(f"--baseline_bases must be 1 or more, got {limit}")
    corpus = GenomeCorpus(trained_on)
    train = split_symbols(corpus, "train", limit)
    valid = split_symbols(corpus, "valid", VALID_BASES)
    models = CountingBaselines(train, valid, DEFAULT_BASELINES, progress=True)
    return models.training_bases, models.score(held_out.scored_symbols(), progress=True)
