"""`bioaudio score`: the log-likelihood of every base of a genome, streamed contig by contig."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

from bioaudio_data.atomic_folder import atomic_folder, check_space
from bioaudio_data.genome import GenomeStore, convert_genome
from tqdm import tqdm

from bioaudio_mamba import count_parameters
from bioaudio_recipes.evaluation.open_model import open_model
from bioaudio_recipes.evaluation.streaming import Precision, check_tokens_per_batch
from bioaudio_recipes.run_folder import device_name, write_json
from bioaudio_recipes.scoring.bedgraph import BedGraph, open_bedgraph
from bioaudio_recipes.scoring.bigwig import BigWig, open_bigwig, require_pybigwig
from bioaudio_recipes.scoring.contig import BYTES, ContigScore, StrandName, read_scores, score_contig
from bioaudio_recipes.scoring.summary import scores_summary, scores_table
from bioaudio_recipes.training.peak_memory import peak_memory_gb

LINE_BYTES = 40
"""Disk space that a line of bedGraph takes, about."""


def score(
    model: Path,
    genome: Path,
    *,
    out: Path,
    contigs: str | list[str] | None = None,
    strand: Literal["forward", "reverse", "both"] = "forward",
    gzip: bool = False,
    bigwig: bool = False,
    tokens_per_batch: int = 2**16,
    precision: Precision = "32-true",
    device: str = "auto",
) -> str:
    """Log-likelihood of every base of a genome, as bedGraph: contigs of any length in constant memory.

    Each contig is read in one go, the model's state carried from piece to piece: every base is predicted from
    all bases before it in its contig. The values are log2 of its probability, in bits: -2 is a blind guess,
    and their mean is minus the bits per base. N and the first base that is read of a contig have no line.

    Args:
        model: A run's folder, or a folder with config.json and model.safetensors.
        genome: FASTA (plain, gzip, bgzip) or .2bit file, or a genome store.
        out: Folder to make, with forward.bedGraph, reverse.bedGraph, scores.json; it appears when done.
        contigs: Only these, as chr1,chr2; default: all.
        strand: forward reads the contig as it is. reverse reads its reverse complement, so that a base is
            predicted from all bases after it; coordinates are those of the forward strand.
        gzip: Compress the bedGraph (to .bedGraph.gz).
        bigwig: Write bigWig (.bw) too; needs the extra `bigwig`.
        tokens_per_batch: Bases in one forward pass; the results do not depend on it beyond rounding.
        precision: bf16-mixed runs matrix products in bfloat16.
        device: Where the model runs: auto, cpu, cuda, cuda:1, ...
    """
    check_tokens_per_batch(tokens_per_batch)
    if bigwig:
        require_pybigwig()
    if not genome.exists():
        raise FileNotFoundError(f"{genome}: no such file, nor a genome store")
    network = open_model(model, device)
    where = network.lm_head.weight.device
    strands: tuple[StrandName, ...] = get_args(StrandName) if strand == "both" else (strand,)
    started = time.monotonic()
    with atomic_folder(out) as folder:
        scores: list[ContigScore] = []
        with TemporaryDirectory(dir=folder) as temporary, ExitStack() as stack:
            store = _open_genome(genome, Path(temporary) / "genome")
            lengths = _chosen(store, genome, contigs)
            total = sum(lengths.values())
            check_space(out, total * (BYTES + LINE_BYTES * len(strands)))
            bar = tqdm(total=total * len(strands), unit="base", unit_scale=True, desc="score", disable=None)
            stack.enter_context(bar)
            scratch = Path(temporary) / "scores.f32"
            for name in strands:
                tracks: list[BedGraph | BigWig] = [
                    stack.enter_context(open_bedgraph(folder / f"{name}.bedGraph{'.gz' if gzip else ''}"))
                ]
                if bigwig:
                    tracks.append(stack.enter_context(open_bigwig(folder / f"{name}.bw", lengths)))
                for contig in lengths:
                    found = score_contig(
                        network,
                        store,
                        contig,
                        name,
                        scratch,
                        tokens_per_batch=tokens_per_batch,
                        precision=precision,
                        advance=bar.update,
                    )
                    scores.append(found)
                    for start, values in read_scores(scratch):
                        for track in tracks:
                            track.add(contig, start, values)
        about = {
            "model": {"path": str(model), "parameters": count_parameters(network)},
            "genome": str(genome),
            "device": device_name(where),
            "precision": precision,
            "tokens_per_batch": tokens_per_batch,
            "seconds": round(time.monotonic() - started, 1),
            "peak_memory_gb": round(peak_memory_gb(where), 3),
        }
        summary = scores_summary(scores, about)
        write_json(folder / "scores.json", summary)
    return f"{scores_table(summary)}\n{out}"


def _open_genome(path: Path, converted: Path) -> GenomeStore:
    """The store at `path`, or one made of the file for as long as the command runs."""
    if path.is_dir():
        return GenomeStore.open(path)
    return convert_genome([path], converted, ambiguous="n", soft_mask="drop")


def _chosen(store: GenomeStore, path: Path, contigs: str | list[str] | None) -> dict[str, int]:
    """Lengths of the contigs to score, in the genome's order."""
    if contigs is None:
        return store.contigs
    names = [name.strip() for name in (contigs.split(",") if isinstance(contigs, str) else contigs)]
    for name in names:
        if name not in store.contigs:
            known = ", ".join([*store.contigs][:5]) + (", ..." if len(store.contigs) > 5 else "")
            raise ValueError(f"--contigs: {path} has no contig {name!r}; it has {known}")
    return {contig: length for contig, length in store.contigs.items() if contig in names}
