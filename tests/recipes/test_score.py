"""`bioaudio score`: one pass over a contig however it is cut, both strands, plain tracks, clear refusals."""

from __future__ import annotations

import gzip
import json
import math
import multiprocessing
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from bioaudio_data.genome import GenomeStore, convert_genome
from bioaudio_data.vocabulary import DNA
from bioaudio_recipes.cli import main, run
from bioaudio_recipes.run_folder import RunFolder
from bioaudio_recipes.scoring.bedgraph import bedgraph_lines
from bioaudio_recipes.scoring.contig import read_scores, score_contig
from data.naive_genome import Genome, fasta_text, twobit_file, write
from hypothesis import given
from hypothesis import strategies as st
from score_memory import TOKENS, peaks_of_scoring
from tolerances import OUTPUT_RTOL, assert_close

from bioaudio_mamba import CausalLM, MambaConfig
from bioaudio_mamba.pretrained import save_pretrained


def letters(bases: int, seed: int, alphabet: str = "ACGTacgtN") -> str:
    return "".join(np.random.default_rng(seed).choice(list(alphabet), bases))


GENOME: Genome = {"one": "N" + letters(900, 1) + "N", "two": letters(70, 2), "dot": "A", "gap": "NNN"}


@pytest.fixture(scope="module")
def model() -> CausalLM:
    return CausalLM(MambaConfig(d_model=8, n_layer=2, d_state=4), torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model: CausalLM) -> Path:
    """A model, and one genome as FASTA, 2bit and store."""
    root = tmp_path_factory.mktemp("score")
    save_pretrained(model, root / "model", {"vocabulary": DNA.to_dict()})
    write(root / "genome.fa.gz", gzip.compress(fasta_text(GENOME)))
    write(root / "genome.2bit", twobit_file(GENOME))
    convert_genome([root / "genome.2bit"], root / "store", progress=False)
    return root


def expected(model: CausalLM, text: str) -> np.ndarray:
    """log2 of each base's probability from one pass over the whole text, NaN where there is none."""
    tokens = torch.from_numpy(DNA.encode(text).astype(np.int64))
    result = torch.full((len(text),), math.nan, dtype=torch.float64)
    with torch.no_grad():
        logits, _ = model(tokens[None])
    for i in range(1, len(text)):
        if text[i].upper() != "N":
            result[i] = torch.log_softmax(logits[0, i - 1].double(), -1)[tokens[i]] / math.log(2)
    return result.numpy()


def reverse_complement(text: str) -> str:
    return text[::-1].translate(str.maketrans("ACGTacgt", "TGCAtgca"))


def read_bedgraph(path: Path) -> dict[str, dict[int, float]]:
    """Values by contig and coordinate; checks that lines are sorted, and one base each."""
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    found: dict[str, dict[int, float]] = {}
    for line in text.splitlines():
        contig, start, end, value = line.split("\t")
        assert int(end) == int(start) + 1
        values = found.setdefault(contig, {})
        assert not values or int(start) > max(values)
        values[int(start)] = float(value)
    return found


def check(found: dict[int, float], wanted: np.ndarray) -> None:
    places = np.flatnonzero(~np.isnan(wanted))
    assert list(found) == places.tolist()
    np.testing.assert_allclose(list(found.values()), wanted[places], atol=1e-4)


@pytest.mark.parametrize("tokens_per_batch", [10_000, 37])
@pytest.mark.parametrize("strand", ["forward", "reverse"])
def test_streamed_scores_equal_one_pass(
    strand: Any, tokens_per_batch: int, folder: Path, model: CausalLM, tmp_path: Path
) -> None:
    store, done = GenomeStore.open(folder / "store"), []
    score = score_contig(
        model,
        store,
        "one",
        strand,
        tmp_path / "scratch",
        tokens_per_batch=tokens_per_batch,
        precision="32-true",
        advance=done.append,
    )
    text = GENOME["one"]
    wanted = expected(model, text if strand == "forward" else reverse_complement(text))
    wanted = wanted if strand == "forward" else wanted[::-1]
    found = np.concatenate([values for _, values in read_scores(tmp_path / "scratch")])
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    scored = ~np.isnan(wanted)
    assert_close(
        torch.from_numpy(found[scored]), torch.from_numpy(wanted[scored].copy()), OUTPUT_RTOL[torch.float32]
    )
    assert (score.bases, score.length, sum(done)) == (scored.sum(), len(text), len(text) - 1)
    assert score.skipped == text.upper().count("N")
    assert score.bits_per_base == pytest.approx(-np.nanmean(wanted), rel=1e-6)


@pytest.mark.parametrize("genome", ["genome.fa.gz", "genome.2bit", "store"])
def test_both_strands_of_all_contigs_in_any_format(
    genome: str, folder: Path, model: CausalLM, tmp_path: Path
) -> None:
    arguments = [str(folder / "model"), str(folder / genome), "--out", str(tmp_path / "out")]
    table = run("score", [*arguments, "--strand", "both", "--tokens-per-batch", "100", "--gzip"])
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["forward.bedGraph.gz", "reverse.bedGraph.gz", "scores.json"]
    forward, reverse = (read_bedgraph(tmp_path / "out" / name) for name in names[:2])
    assert list(forward) == list(reverse) == ["one", "two"]
    for contig in forward:
        check(forward[contig], expected(model, GENOME[contig]))
        check(reverse[contig], expected(model, reverse_complement(GENOME[contig]))[::-1])
    summary = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert [entry["strand"] for entry in summary["total"]] == ["forward", "reverse"]
    total = summary["total"][0]
    assert total["bases"] == sum(map(len, forward.values()))
    assert total["skipped"] == "".join(GENOME.values()).upper().count("N")
    lone, gap = summary["contigs"][2:4]
    assert (lone["bases"], lone["skipped"], lone["perplexity"]) == (0, 0, None)
    assert (gap["bases"], gap["skipped"]) == (0, 3)
    assert table is not None
    assert f"{total['perplexity']:.4f}" in table


def test_only_the_contigs_asked_for(folder: Path, tmp_path: Path) -> None:
    arguments = [str(folder / "model"), str(folder / "store"), "--out", str(tmp_path / "out")]
    run("score", [*arguments, "--contigs", "two,dot"])
    assert list(read_bedgraph(tmp_path / "out" / "forward.bedGraph")) == ["two"]
    summary = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert [entry["contig"] for entry in summary["contigs"]] == ["two", "dot"]


def test_memory_does_not_grow_with_the_contig(tmp_path: Path) -> None:
    bases = {"short": 8_000, "long": 108_000}
    text = {contig: letters(size, 3, "ACGT") for contig, size in bases.items()}
    fasta = write(tmp_path / "genome.fa", fasta_text(text))
    convert_genome([fasta], tmp_path / "store", progress=False)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        arguments = tmp_path / "store", list(bases), tmp_path / "scratch"
        (short, long), longest = pool.apply(peaks_of_scoring, arguments)
    assert longest == TOKENS
    assert long < short + 50_000, "less than half a byte a base: neither tokens nor scores are kept"


@given(
    st.lists(st.one_of(st.just(math.nan), st.floats(-200, 0, width=32)), max_size=40),
    st.integers(0, 10**9),
)
def test_lines_are_those_of_python(values: list[float], start: int) -> None:
    found = bedgraph_lines("chr_1", start, np.array(values, np.float32)).decode().splitlines()
    kept = [(start + i, value) for i, value in enumerate(values) if not math.isnan(value)]
    assert len(found) == len(kept)
    for line, (at, value) in zip(found, kept, strict=True):
        *place, text = line.split("\t")
        assert place == ["chr_1", str(at), str(at + 1)]
        assert text == f"{float(text):.4f}".removeprefix("-" if float(text) == 0 else "")
        assert abs(float(text) - value) <= 0.5001e-4


def test_bigwig_takes_the_same_values(
    folder: Path, model: CausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[str, dict[int, float]] = {}
    headers = []

    def add(contig: str, starts: np.ndarray, *, values: np.ndarray, span: int) -> None:
        assert span == 1
        written.setdefault(contig, {}).update(zip(starts.tolist(), values.tolist(), strict=True))

    file = SimpleNamespace(addHeader=headers.append, addEntries=add, close=lambda: None)
    monkeypatch.setitem(sys.modules, "pyBigWig", SimpleNamespace(open=lambda path, mode: file))
    arguments = [str(folder / "model"), str(folder / "store"), "--out", str(tmp_path / "out")]
    run("score", [*arguments, "--bigwig", "--tokens-per-batch", "50"])
    assert headers == [[(contig, len(text)) for contig, text in GENOME.items()]]
    for contig, values in written.items():
        check(values, expected(model, GENOME[contig]))
    assert list(written) == ["one", "two"]


def test_bigwig_can_be_read_back(folder: Path, model: CausalLM, tmp_path: Path) -> None:
    bigwig = pytest.importorskip("pyBigWig")
    run("score", [str(folder / "model"), str(folder / "store"), "--out", str(tmp_path / "out"), "--bigwig"])
    with bigwig.open(str(tmp_path / "out" / "forward.bw")) as file:
        found = np.array(file.values("one", 0, len(GENOME["one"])))
    np.testing.assert_allclose(found, expected(model, GENOME["one"]), atol=1e-5)


@pytest.mark.parametrize(
    ("model_name", "genome", "flags", "message"),
    [
        ("model", "absent.fa", [], "absent.fa: no such file, nor a genome store"),
        ("absent", "store", [], "no such folder"),
        ("store", "store", [], "config.json"),
        ("begun", "store", [], "holds no model yet: its training exports one when it ends"),
        ("model", "model", [], "index.json"),
        ("model", "empty.fa", [], "empty.fa is empty"),
        ("model", "store", ["--contigs", "one,chrX"], "has no contig 'chrX'; it has one, two, dot, gap"),
        ("model", "store", ["--tokens-per-batch", "0"], "--tokens_per_batch must be 1 or more, got 0"),
        ("model", "store", ["--bigwig"], "pip install 'bioaudio-mamba[bigwig]'"),
        ("model", "store", ["--strand", "sideways"], "sideways"),
        ("model", "store", ["--device", "abacus"], "--device 'abacus' cannot be used here"),
    ],
)
def test_refuses_in_one_line(
    model_name: str,
    genome: str,
    flags: list[str],
    message: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "pyBigWig", None)
    (folder / "empty.fa").touch()
    RunFolder(folder / "begun").create()
    with pytest.raises(SystemExit) as exit_:
        main(
            ["score", str(folder / model_name), str(folder / genome), "--out", str(tmp_path / "out"), *flags]
        )
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("bioaudio: error: ")
    assert message in error
    assert not list(tmp_path.iterdir()), "nothing is half-written"


def test_an_earlier_result_is_not_written_over(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    with pytest.raises(FileExistsError, match="exists already"):
        run("score", [str(folder / "model"), str(folder / "store"), "--out", str(tmp_path)])


def test_a_diverged_model_is_an_error(folder: Path, tmp_path: Path) -> None:
    broken = CausalLM(MambaConfig(d_model=8, n_layer=1, d_state=4))
    with torch.no_grad():
        broken.backbone.norm_f.weight.fill_(math.nan)
    save_pretrained(broken, tmp_path / "broken", {"vocabulary": DNA.to_dict()})
    with pytest.raises(ValueError, match="not finite in one, forward strand"):
        run("score", [str(tmp_path / "broken"), str(folder / "store"), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
