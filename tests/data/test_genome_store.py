"""A store holds what its sources held, gives any window of it, and says when it does not."""

from __future__ import annotations

import hashlib
import json
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from bioaudio_data import atomic_folder
from bioaudio_data.genome import GenomeStore, convert_genome
from bioaudio_data.samples import great_apes_chr22
from bioaudio_data.vocabulary import DNA
from data.naive_genome import encoded, fasta_text, gzip_members, stored, twobit_file, write
from hypothesis import given
from hypothesis import strategies as st

GENOME = {"chr1": "ACGTNNacgtn", "chr2": "g", "chrM": "TTTTT" * 30}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> GenomeStore:
    folder = tmp_path_factory.mktemp("genome")
    return convert_genome([write(folder / "a.fa", fasta_text(GENOME))], folder / "store", progress=False)


def test_store_holds_its_sources_in_order(tmp_path: Path) -> None:
    first, second, third = (dict([item]) for item in GENOME.items())
    sources = [
        write(tmp_path / "a.fa", fasta_text(first)),
        write(tmp_path / "b.2bit", twobit_file({**second, "chr3": "ACgt"})),
        write(tmp_path / "c.fa.gz", gzip_members(fasta_text(third), 40)),
    ]
    store = convert_genome(sources, tmp_path / "store", progress=False)
    expected = {**first, **second, "chr3": "ACgt", **third}
    assert stored(store) == expected
    assert store.contigs == {name: len(letters) for name, letters in expected.items()}
    assert stored(pickle.loads(pickle.dumps(store))) == expected


def test_store_on_disk_is_one_byte_a_base_and_an_index(store: GenomeStore) -> None:
    content = encoded("".join(GENOME.values())).tobytes()
    assert sorted(path.name for path in store.path.iterdir()) == ["bases.u8", "index.json"]
    assert (store.path / "bases.u8").read_bytes() == content
    source = store.path.parent / "a.fa"
    assert json.loads((store.path / "index.json").read_text()) == {
        "format": "bioaudio-genome",
        "version": 1,
        "vocabulary": {"name": "dna-char-hyenadna", "fingerprint": DNA.fingerprint()},
        "contigs": [
            {"name": "chr1", "length": 11, "offset": 0},
            {"name": "chr2", "length": 1, "offset": 11},
            {"name": "chrM", "length": 150, "offset": 12},
        ],
        "sources": [{"file": "a.fa", "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}],
        "sha256": hashlib.sha256(content).hexdigest(),
        "composition": {"A": 2, "C": 2, "G": 3, "T": 152, "N": 3, "soft_masked": 6, "ambiguous": 0},
    }


@given(st.data())
def test_every_window_is_a_slice_of_its_contig(store: GenomeStore, data: st.DataObject) -> None:
    contig = data.draw(st.sampled_from(list(GENOME)))
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(GENOME[contig]))] * 2)))
    letters = GENOME[contig][start:end]
    tokens, mask = store.read(contig, start, end)
    assert DNA.decode(tokens) == letters.upper()
    assert mask.tolist() == [letter.islower() for letter in letters]
    assert np.array_equal(store.tokens(contig, start, end), tokens)
    assert np.array_equal(store.soft_mask(contig, start, end), mask)


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (0, 12), (5, 4), (12, 12)])
def test_window_beyond_its_contig_is_refused(store: GenomeStore, start: int, end: int) -> None:
    for method in (store.tokens, store.soft_mask, store.read):
        with pytest.raises(ValueError, match=rf"chr1:{start}-{end} is not within .* spans 0-11"):
            method("chr1", start, end)


def test_unknown_contig_is_refused(store: GenomeStore) -> None:
    with pytest.raises(ValueError, match="no contig '1'; it has chr1, chr2, chrM"):
        store.tokens("1", 0, 1)


def test_windows_can_be_changed_and_the_store_cannot(store: GenomeStore) -> None:
    store.tokens("chr1", 0, 4)[:] = DNA.N
    assert DNA.decode(store.tokens("chr1", 0, 4)) == "ACGT"


def test_ambiguity_letters_are_stored_as_n_on_request(tmp_path: Path) -> None:
    source = write(tmp_path / "a.fa", b">z\nACRYSWKMBDHVn\nacryswkmbdhvN\n")
    store = convert_genome([source], tmp_path / "store", ambiguous="n", progress=False)
    assert stored(store) == {"z": "AC" + "N" * 10 + "n" + "ac" + "n" * 10 + "N"}
    assert store.index.composition == {
        "A": 2,
        "C": 2,
        "G": 0,
        "T": 0,
        "N": 22,
        "soft_masked": 13,
        "ambiguous": 20,
    }


@pytest.mark.parametrize("name", ["lower.fa", "lower.2bit"])
def test_soft_mask_is_dropped_on_request(tmp_path: Path, name: str) -> None:
    genome = {"z": "acgtn", "y": "acg"}
    source = write(tmp_path / name, twobit_file(genome) if name.endswith("2bit") else fasta_text(genome))
    store = convert_genome([source], tmp_path / "store", soft_mask="drop", progress=False)
    assert stored(store) == {"z": "ACGTN", "y": "ACG"}
    assert store.index.composition["soft_masked"] == 0


def test_conversion_needs_the_same_memory_for_any_line(tmp_path: Path) -> None:
    source = write(tmp_path / "one_line.fa", fasta_text({"z": "ACGTacgtNN" * 3_000_000}, width=30_000_000))
    tracemalloc.start()
    try:
        convert_genome([source], tmp_path / "store", progress=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 << 20


def test_flipped_bit_is_found(tmp_path: Path) -> None:
    source = great_apes_chr22()["human"]
    store = convert_genome([source], tmp_path / "store", progress=False)
    store.verify()
    bases = store.path / "bases.u8"
    content = bytearray(bases.read_bytes())
    content[123_456] ^= 0x80
    bases.write_bytes(content)
    with pytest.raises(ValueError, match=r"store/bases\.u8 is damaged"):
        GenomeStore.open(store.path).verify()


def test_open_refuses_what_is_no_whole_store(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="prepare-genome"):
        GenomeStore.open(tmp_path)
    store = convert_genome([write(tmp_path / "a.fa", fasta_text(GENOME))], tmp_path / "s", progress=False)
    index = (store.path / "index.json").read_text()

    def refused(
        reason: str, *, index: str = index, bases: bytes | None = encoded("A" * 162).tobytes()
    ) -> None:
        (store.path / "index.json").write_text(index)
        (store.path / "bases.u8").unlink(missing_ok=True)
        if bases is not None:
            (store.path / "bases.u8").write_bytes(bases)
        with pytest.raises(ValueError, match=reason):
            GenomeStore.open(store.path)

    refused("161 bytes where its index says 162", bases=bytes(161))
    refused("bases.u8 is missing", bases=None)
    refused("index.json is damaged", index=index[:100])
    refused("index.json is damaged", index=index.replace('"offset"', '"off"'))
    refused("index.json is damaged", index=index.replace('"offset": 11', '"offset": 10'))
    refused("index of a genome store", index="[]")
    refused(
        "format version 2; this release reads version 1", index=index.replace('"version": 1', '"version": 2')
    )
    refused("vocabulary", index=index.replace(DNA.fingerprint(), "0" * 16))


def test_store_overwritten_under_a_job_is_noticed(tmp_path: Path) -> None:
    source = write(tmp_path / "a.fa", fasta_text(GENOME))
    store = convert_genome([source], tmp_path / "s", progress=False)
    pickled = pickle.dumps(store)
    convert_genome([write(source, fasta_text({"z": "ACGT"}))], tmp_path / "s", overwrite=True, progress=False)
    assert stored(store) == GENOME
    with pytest.raises(ValueError, match="overwritten"):
        pickle.loads(pickled)


def test_store_is_overwritten_where_folders_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic_folder, "_exchange", lambda first, second: False)
    for genome in (GENOME, {"z": "ACGT"}):
        source = write(tmp_path / "a.fa", fasta_text(genome))
        convert_genome([source], tmp_path / "s", overwrite=True, progress=False)
        assert stored(GenomeStore.open(tmp_path / "s")) == genome
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.fa", "s"]
