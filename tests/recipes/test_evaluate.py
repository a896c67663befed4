"""`bioaudio evaluate`: its arithmetic by hand, the same bases at every length, refusals in one line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from bioaudio_data.genome import GenomeStore, convert_genome
from bioaudio_data.interval import Interval
from bioaudio_data.vocabulary import DNA
from bioaudio_data.windows import Windows
from bioaudio_recipes.cli import main, run
from bioaudio_recipes.evaluation.held_out import SAMPLE_PIECE, HeldOutBases, sample_intervals
from bioaudio_recipes.evaluation.passage import Passage
from bioaudio_recipes.evaluation.perplexity import (
    LengthScore,
    position_edges,
    score_passages,
    score_windows,
)
from bioaudio_recipes.pretrain.genome_data import GenomeCorpus, GenomeData
from bioaudio_recipes.pretrain.packed_windows import PackedWindows
from bioaudio_recipes.run_folder import RunFolder
from bioaudio_recipes.training.saved_config import save_config

from bioaudio_mamba import CausalLM, MambaConfig, count_parameters
from bioaudio_mamba.pretrained import save_pretrained

CONFIG = MambaConfig(d_model=16, n_layer=2, d_state=4)
SPLITS = ("--guard", "0", "--train", "[0,0.6]", "--valid", "[0.6,0.8]", "--test", "[0.8,1]")


@pytest.fixture(scope="module")
def genome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two contigs of 6,000 and 4,000 bases, N among them."""
    folder = tmp_path_factory.mktemp("genome")
    letters = np.random.default_rng(3).choice(list("ACGTacgtN"), (2, 6000))
    fasta = folder / "two.fa"
    fasta.write_text(f">one\n{''.join(letters[0])}\n>two\n{''.join(letters[1, :4000])}\n")
    convert_genome([fasta], folder / "store", progress=False)
    return folder / "store"


@pytest.fixture(scope="module")
def model() -> CausalLM:
    return CausalLM(CONFIG, torch.Generator().manual_seed(1))


@pytest.fixture
def model_folder(tmp_path: Path, model: CausalLM) -> Path:
    save_pretrained(model, tmp_path / "model", {"vocabulary": DNA.to_dict()})
    return tmp_path / "model"


def windows_over(genome: Path, length: int) -> PackedWindows:
    store = GenomeStore.open(genome)
    return PackedWindows([store], [Windows([Interval("one", 100, 500)], length, "tile", store.contigs)])


def by_hand(model: CausalLM, genome: Path, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Nats and bases by position, base by base, with one forward pass a window."""
    nats, bases = np.zeros(length), np.zeros(length, int)
    store = GenomeStore.open(genome)
    for start in range(100, 500 - length + 1, length):
        tokens = store.tokens("one", start, start + length).astype(int)
        with torch.no_grad():
            logits, _ = model(torch.from_numpy(tokens)[None])
        log_probabilities = torch.log_softmax(logits[0].double(), -1)
        for i in range(1, length):
            if DNA.A <= tokens[i] <= DNA.T:
                nats[i] -= log_probabilities[i - 1, tokens[i]].item()
                bases[i] += 1
    return nats, bases


@pytest.mark.parametrize("tokens_per_batch", [1_000_000, 200, 33])
def test_scores_equal_a_hand_computation_streamed_or_not(
    genome: Path, model: CausalLM, tokens_per_batch: int
) -> None:
    score = score_windows(model, windows_over(genome, 100), tokens_per_batch=tokens_per_batch)
    nats, bases = by_hand(model, genome, 100)
    first, *_ = edges = position_edges(100)
    assert (first, edges[-1]) == (1, 100)
    np.testing.assert_array_equal(score.bases, np.add.reduceat(bases, edges[:-1]))
    np.testing.assert_allclose(score.nats, np.add.reduceat(nats, edges[:-1]), rtol=1e-5)
    assert score.perplexity == pytest.approx(math.exp(nats.sum() / bases.sum()), rel=1e-6)


def test_scores_repeat_exactly(genome: Path, model: CausalLM) -> None:
    one, other = (score_windows(model, windows_over(genome, 80), tokens_per_batch=200) for _ in range(2))
    np.testing.assert_array_equal(one.nats, other.nats)


def test_bf16_stays_close(genome: Path, model: CausalLM) -> None:
    exact = score_windows(model, windows_over(genome, 80))
    rounded = score_windows(model, windows_over(genome, 80), precision="bf16-mixed")
    assert rounded.bits_per_base != exact.bits_per_base
    assert rounded.bits_per_base == pytest.approx(exact.bits_per_base, rel=0.01)


@pytest.mark.parametrize("length", [2, 3, 17, 64, 1000])
def test_bins_of_position_hold_every_base_once(length: int) -> None:
    bases = np.diff(position_edges(length))
    bins = LengthScore(length, bases * math.log(2), bases).by_position()
    assert sum(entry["bases"] for entry in bins) == length - 1
    assert [entry["bits_per_base"] for entry in bins] == pytest.approx([1.0] * len(bins))
    assert [entry["first"] for entry in bins[1:]] == [entry["last"] + 1 for entry in bins[:-1]]
    assert (bins[0]["first"], bins[-1]["last"]) == (1, length - 1)


def test_every_length_reads_the_same_bases(genome: Path) -> None:
    data = GenomeData(genomes=[genome], guard=0, train=(0, 0.4), valid=(0.4, 0.5), test=(0.5, 1.0))
    held_out = HeldOutBases(GenomeCorpus(data), "test", [32, 128, 512])
    read = {}
    for length in (32, 128, 512):
        windows = held_out.windows(length)
        read[length] = windows.read(np.arange(len(windows))).ravel()
    assert len(read[512]) == held_out.bases == 5 * 512 + 3 * 512
    np.testing.assert_array_equal(read[32], read[512])
    np.testing.assert_array_equal(read[128], read[512])


def test_whole_segments_are_windows_as_long_as_they(genome: Path, model: CausalLM) -> None:
    store = GenomeStore.open(genome)
    regions = [Interval("one", 100, 500), Interval("two", 300, 400)]
    longest, shorter = (
        score_windows(model, PackedWindows([store], [Windows([region], len(region), "tile", store.contigs)]))
        for region in regions
    )
    passages = [Passage(store, region.contig, region.start, region.end, [region]) for region in regions]
    whole = score_passages(model, passages, tokens_per_batch=33)
    assert whole.length == 400
    assert whole.bases.sum() == longest.bases.sum() + shorter.bases.sum()
    assert whole.nats.sum() == pytest.approx(longest.nats.sum() + shorter.nats.sum(), rel=1e-6)


def test_whole_contigs_add_the_context_before_the_segments(genome: Path, model: CausalLM) -> None:
    data = GenomeData(genomes=[genome], guard=0, train=(0, 0.4), valid=(0.4, 0.5), test=(0.5, 1.0))
    held_out = HeldOutBases(GenomeCorpus(data), "test", [512])
    passages = held_out.passages("contig")
    assert [(p.contig, p.start, p.end) for p in passages] == [("one", 0, 5560), ("two", 0, 3536)]
    score = score_passages(model, passages, tokens_per_batch=700)
    nats, bases = 0.0, 0
    for passage in passages:
        tokens = passage.store.tokens(passage.contig, 0, passage.end).astype(int)
        with torch.no_grad():
            logits, _ = model(torch.from_numpy(tokens)[None])
        chosen = np.flatnonzero((tokens >= DNA.A) & (tokens <= DNA.T))
        chosen = chosen[chosen >= passage.scored[0].start]
        nats -= torch.log_softmax(logits[0].double(), -1)[chosen - 1, tokens[chosen]].sum().item()
        bases += len(chosen)
    assert (score.bases.sum(), score.nats.sum()) == (bases, pytest.approx(nats, rel=1e-6))
    assert score.by_position()[0]["first"] > 1


def test_whole_segments_read_the_bases_of_the_windows(genome: Path, model_folder: Path) -> None:
    arguments = ["--genome", str(genome), "--lengths", "[64,256]", "--baselines", "false", *SPLITS]
    table = run("evaluate", [str(model_folder), *arguments, "--whole", "segment"])
    results = json.loads((model_folder / "evaluation" / "perplexity.json").read_text())
    *_, longest, whole = results["lengths"]
    assert (longest["length"], whole["length"], whole["whole"]) == (256, 1024, "segment")
    assert longest["bases"] < whole["bases"] <= results["bases_read"] == 1024 + 768
    assert table is not None
    assert "whole segments, up to 1,024" in table
    assert "read: 1,792 of the 2,000 bases of the split" in table


def test_baselines_are_scored_on_the_bases_that_the_longest_windows_predict(
    genome: Path, model: CausalLM, model_folder: Path
) -> None:
    run("evaluate", [str(model_folder), "--genome", str(genome), "--lengths", "[64,256]", *SPLITS])
    results = json.loads((model_folder / "evaluation" / "perplexity.json").read_text())
    shorter, longest = results["lengths"]
    assert (shorter["length"], longest["length"]) == (64, 256)
    assert {entry["bases"] for entry in results["baselines"]} == {longest["bases"]}
    assert shorter["bases"] < longest["bases"]
    assert results["split"] == "test"
    assert results["model"] == {"parameters": count_parameters(model), "d_model": 16, "n_layer": 2}


def test_a_run_is_evaluated_on_its_own_splits_and_lengths(
    tmp_path: Path, genome: Path, model: CausalLM
) -> None:
    folder = RunFolder(tmp_path / "run").create()
    save_pretrained(model, folder.model, {"vocabulary": DNA.to_dict()})
    data = GenomeData(genomes=[genome], guard=0, train=(0, 0.5), valid=(0.5, 0.75), test=(0.75, 1.0))
    save_config(folder.config, {"data": data, "schedule": {"stages": [{"length": 64}, {"length": 128}]}})
    table = run("evaluate", [str(folder.root)])
    results = json.loads((folder.evaluation / "perplexity.json").read_text())
    assert [entry["length"] for entry in results["lengths"]] == [64, 128]
    assert table is not None
    assert "model, windows of 128" in table
    assert "order-16 interpolated" in table
    run("evaluate", [str(folder.root), "--split", "valid", "--baselines", "false"])
    assert json.loads((folder.evaluation / "perplexity-valid.json").read_text())["baselines"] == []


def test_a_sample_of_intervals_is_spread_evenly() -> None:
    intervals = [Interval("a", 0, 10 * SAMPLE_PIECE), Interval("b", 5, 10 * SAMPLE_PIECE + 5)]
    kept = sample_intervals(intervals, 5 * SAMPLE_PIECE)
    assert [len(pieces) for pieces in kept] == [2, 3]
    assert sum(len(piece) for pieces in kept for piece in pieces) == 5 * SAMPLE_PIECE
    assert sample_intervals(intervals, 20 * SAMPLE_PIECE) == [[interval] for interval in intervals]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lengths", "[64,96]"], "--lengths must be 2 or more and divide the longest, 96"),
        (["--lengths", "[8192]"], "longer than every contig"),
        (["--lengths", "[2048]"], "no window of 2048 bases fits"),
        (["--split", "exam", "--lengths", "[64]"], "no segment in split 'exam'"),
        (["--lengths", "[64]", "--device", "abacus"], "--device 'abacus' cannot be used here"),
        (["--lengths", "[64]", "--baseline_bases", "0"], "--baseline_bases must be 1 or more"),
        (["--lengths", "[64]", "--valid_contigs", "[one]", "--test_contigs", "[two]"], "exclude one another"),
    ],
)
def test_refuses_in_one_line(
    arguments: list[str],
    message: str,
    genome: Path,
    model_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["evaluate", str(model_folder), "--genome", str(genome), *SPLITS, *arguments])
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("bioaudio: error: ")
    assert message in error
    assert not (model_folder / "evaluation").exists()


def test_refuses_another_vocabulary(tmp_path: Path, genome: Path, model: CausalLM) -> None:
    save_pretrained(model, tmp_path / "m", {"vocabulary": DNA.to_dict() | {"fingerprint": "0" * 16}})
    with pytest.raises(ValueError, match="vocabulary"):
        run("evaluate", [str(tmp_path / "m"), "--genome", str(genome), "--lengths", "[64]", *SPLITS])


def test_refuses_a_folder_that_is_no_run_without_a_genome(model_folder: Path) -> None:
    with pytest.raises(ValueError, match="give --genome"):
        run("evaluate", [str(model_folder)])
    with pytest.raises(FileNotFoundError, match="no such folder"):
        run("evaluate", [str(model_folder / "absent")])
