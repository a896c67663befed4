"""FASTA and .2bit are read as the obvious way, pyfaidx and twobitreader read them, whatever the blocks."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pyfaidx
import pytest
import twobitreader
from bioaudio_data.genome import fasta, twobit
from bioaudio_data.genome.source import read_source
from data.naive_genome import Genome, collected, encoded, fasta_text, gzip_members, twobit_file, write
from hypothesis import given, settings
from hypothesis import strategies as st

letters = st.text("ACGTNacgtn", min_size=1, max_size=120)
genomes = st.dictionaries(
    st.from_regex(r"[A-Za-z0-9_.|]{1,8}", fullmatch=True), letters, min_size=1, max_size=4
)


def read(path: Path) -> dict[str, np.ndarray]:
    return collected(read_source(path, lambda count: None))


def assert_same(read: dict[str, np.ndarray], genome: Genome) -> None:
    assert list(read) == list(genome)
    for name, expected in genome.items():
        np.testing.assert_array_equal(read[name], encoded(expected))


@given(
    genome=genomes,
    width=st.integers(1, 130),
    newline=st.sampled_from(["\n", "\r\n", "\n\n"]),
    final_newline=st.booleans(),
    block=st.integers(1, 80),
    member=st.none() | st.integers(1, 300),
)
@settings(max_examples=100, deadline=None)
def test_fasta_is_read_whatever_its_lines_and_blocks(
    genome: Genome, width: int, newline: str, final_newline: bool, block: int, member: int | None
) -> None:
    text = fasta_text(genome, width=width, newline=newline, final_newline=final_newline)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(fasta, "BLOCK_BYTES", block)
        path = write(Path(folder) / "genome.fa", gzip_members(text, member) if member else text)
        assert_same(read(path), genome)


@given(genome=genomes, width=st.integers(1, 130), newline=st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=30, deadline=None)
def test_fasta_is_read_as_pyfaidx_reads_it(genome: Genome, width: int, newline: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "genome.fa", fasta_text(genome, width=width, newline=newline))
        with pyfaidx.Fasta(str(path)) as oracle:
            assert_same(read(path), {name: str(record[:]) for name, record in oracle.items()})


@given(
    genome=genomes,
    order=st.sampled_from("<>"),
    version=st.sampled_from([0, 1]),
    block=st.sampled_from([4, 8, 32, 1 << 20]),
)
@settings(max_examples=60, deadline=None)
def test_twobit_is_read_as_the_fasta_of_the_same_genome(
    genome: Genome, order: str, version: int, block: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(twobit, "BLOCK_BASES", block)
        path = write(Path(folder) / "genome.2bit", twobit_file(genome, order=order, version=version))
        assert_same(read(path), genome)
        with path.open("rb") as file:
            assert twobit.count_bases(file, path) == sum(map(len, genome.values()))


@given(genome=genomes)
@settings(max_examples=30, deadline=None)
def test_twobit_is_read_as_twobitreader_reads_it(genome: Genome) -> None:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = write(Path(folder) / "genome.2bit", twobit_file(genome))
        oracle = twobitreader.TwoBitFile(str(path))
        assert_same(read(path), {name: oracle[name][0 : len(genome[name])] for name in genome})


def test_twobit_of_real_dna_is_read_as_its_fasta(tmp_path: Path) -> None:
    from bioaudio_data.samples import great_apes_chr22

    sample = great_apes_chr22()["gorilla"]
    (expected,) = read(sample).values()
    letters = np.array(list("ACGTN"))[(expected & 0x7F) - 7]
    genome = {"z": "".join(np.where(expected < 0x80, letters, np.char.lower(letters)))}
    assert np.array_equal(read(write(tmp_path / "g.2bit", twobit_file(genome)))["z"], expected)


def test_progress_adds_up_to_the_bytes_of_the_file(tmp_path: Path) -> None:
    text = fasta_text({"a": "ACGT" * 50_000, "b": "acgtN" * 50_000})
    for name, content in (("a.fa", text), ("a.fa.gz", gzip_members(text, 1 << 16))):
        path, told = write(tmp_path / name, content), []
        collected(read_source(path, told.append))
        assert sum(told) == len(content)
