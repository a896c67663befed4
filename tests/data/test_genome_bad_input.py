"""Bad genome files end in one line naming file and place, exit code 2, and nothing left on disk."""

from __future__ import annotations

import gzip
import shutil
import struct
from pathlib import Path
from typing import NamedTuple

import pytest
from bioaudio_data.genome import convert, convert_genome
from bioaudio_recipes.cli import main
from data.naive_genome import fasta_text, gzip_members, twobit_file, write

GENOME = {"chr1": "ACGTNNacgtn" * 20, "chr2": "gattaca" * 20 + "C"}
TEXT = fasta_text(GENOME)
TWOBIT = twobit_file(GENOME)
BGZF_END = "1f8b08040000000000ff0600424302001b0003000000000000000000"


def bgzip(text: bytes) -> bytes:
    """Blocks of bgzip, gzip members whose extra field `BC` holds their size, without the empty last one."""
    blocks = b""
    for start in range(0, len(text), 100):
        body = gzip.compress(text[start : start + 100], mtime=0)[10:]
        blocks += bytes.fromhex("1f8b08040000000000ff060042430200") + struct.pack("<H", len(body) + 17) + body
    return blocks


class Bad(NamedTuple):
    """Content of a file, and what the line about it must say after the file's path."""

    content: bytes
    says: str
    name: str = "bad.fa"


BAD = {
    "empty": Bad(b"", " is empty"),
    "only blank lines": Bad(b"\n\n", " is empty"),
    "no header": Bad(b"\nACGT\n", ":2: a FASTA file begins with '>', this one with 'A'"),
    "fastq": Bad(b"@read\nACGT\n+\nIIII\n", ":1: a FASTA file begins with '>', this one with '@'"),
    "header without a name": Bad(b">z\nAC\n>\nAC\n", ":3: a contig has no name"),
    "name after a blank": Bad(b"> z\nAC\n", ":1: a contig has no name"),
    "name not UTF-8": Bad(b">z\xff\nAC\n", ":1: the contig name b'z\\xff' is not UTF-8"),
    "name with an escape": Bad(b">z\x1b[2J\nAC\n", ":1: the contig name 'z\\x1b[2J' has a character"),
    "header without end": Bad(b">" + b"z" * 70_000, ":1: the header is longer than 65,536 bytes"),
    "contig without bases": Bad(b">z\n\n>y\nAC\n", ":1: contig 'z' has no bases; is the file cut short?"),
    "ends in a header": Bad(b">z\nAC\n>y", ":3: contig 'y' has no bases; is the file cut short?"),
    "duplicate contig": Bad(b">z\nAC\n>y\nAC\n>z a\nAC\n", ":5: contig 'z' was seen before, at {path}:1"),
    "ambiguity letter": Bad(
        b">z\r\nACGT\r\nACrT\r\n",
        ":3: 'r' at base 7 of contig 'z' is an ambiguity letter; to store such letters as N: --ambiguous n",
    ),
    "RNA": Bad(b">z\nAC\n>y\nACGU\n", ":4: 'U' at base 4 of contig 'y' is RNA"),
    "protein": Bad(b">z\nACL\n", ":2: 'L' at base 3 of contig 'z' is not a nucleotide"),
    "gap": Bad(b">z\nAC-\n", ":2: '-' at base 3 of contig 'z' is not a nucleotide"),
    "blank in a line": Bad(b">z\nAC GT\n", ":2: ' ' at base 3 of contig 'z' is not a nucleotide"),
    "binary": Bad(b">z\nAC\0\n", ":2: '\\x00' at base 3 of contig 'z' is not a nucleotide"),
    "header within a line": Bad(b">z\nAC>y\nAC", ":2: '>' at base 3 of contig 'z' is not a nucleotide"),
    "lines of old Macs": Bad(b">z\rACGT\rACGT\r", ":1: a carriage return that ends no line"),
    "stray return": Bad(b">z\r\nAC\r\nA\rC\r\n", ":3: a carriage return that ends no line"),
    "lower case only": Bad(
        b">z\nacgt\n>y\nnnac\n", ": every base is lower case, so its soft mask says nothing; to store"
    ),
    "gzip cut": Bad(gzip.compress(TEXT)[:-20], ": its gzip data is cut short or damaged", "cut.fa.gz"),
    "gzip damaged": Bad(
        gzip.compress(TEXT)[:-8] + bytes(8), ": its gzip data is cut short or damaged", "b.fa.gz"
    ),
    "gzip with a tail": Bad(
        gzip.compress(TEXT) + b"tail", ": its gzip data is cut short or damaged", "b.fa.gz"
    ),
    "gzip of nothing": Bad(gzip.compress(b""), " is empty", "empty.fa.gz"),
    "gzip of two bytes": Bad(b"\x1f\x8b", ": its gzip data is cut short or damaged", "cut.fa.gz"),
    "gzip header only": Bad(gzip.compress(TEXT)[:5], ": its gzip data is cut short or damaged", "cut.fa.gz"),
    "bgzip cut between blocks": Bad(bgzip(TEXT), " is cut short: the block that ends", "cut.fa.gz"),
    "2bit without signature": Bad(TEXT, " is not a .2bit file", "bad.2bit"),
    "2bit of a strange version": Bad(TWOBIT[:4] + b"\2" + TWOBIT[5:], ": .2bit version 2", "bad.2bit"),
    "2bit without contigs": Bad(
        TWOBIT[:8] + bytes(8), " is empty: its header promises no contig", "bad.2bit"
    ),
    "2bit cut in the header": Bad(TWOBIT[:7], ": the header lies beyond the file's 7 bytes", "bad.2bit"),
    "2bit cut in the index": Bad(TWOBIT[:20], ": record 1 of 2 of the index lies beyond", "bad.2bit"),
    "2bit cut in the bases": Bad(TWOBIT[:-1], ": contig 'chr2' lies beyond the file's", "bad.2bit"),
    "2bit with an absurd offset": Bad(
        TWOBIT[:21] + b"\xff" * 4 + TWOBIT[25:], ": contig 'chr1' lies beyond the file's", "bad.2bit"
    ),
    "2bit with absurd blocks": Bad(
        twobit_file({"z": "A"})[:26] + b"\xff" * 8,
        ": contig 'z', N blocks lies beyond the file's",
        "bad.2bit",
    ),
    "2bit with a block beyond": Bad(
        twobit_file({"z": "ACGN"}).replace(struct.pack("<3I", 1, 3, 1), struct.pack("<3I", 1, 3, 2)),
        ": contig 'z', N blocks are out of order or reach beyond the 4 bases",
        "bad.2bit",
    ),
    "2bit without bases": Bad(twobit_file({"z": ""}), ": contig 'z' has no bases", "bad.2bit"),
    "2bit with a contig twice": Bad(
        twobit_file({"y": "AC", "z": "AC"}).replace(b"\1z", b"\1y"),
        ": record 2: contig 'y' was seen before, at {path}: record 1",
        "bad.2bit",
    ),
    "2bit in lower case only": Bad(twobit_file({"z": "acgt"}), ": every base is lower case", "lower.2bit"),
}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: Path | str) -> str:
    """The line that `bioaudio` prints on stderr as it exits with code 2."""
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    assert exit_.value.code == 2
    assert output.out == ""
    assert output.err.count("\n") == 1
    return output.err.removeprefix("bioaudio: error: ").rstrip("\n")


@pytest.mark.parametrize("case", BAD)
def test_bad_source_is_refused(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = (
        write(tmp_path / "good.fa", fasta_text({"good": "ACGT"})),
        write(tmp_path / BAD[case].name, BAD[case].content),
    )
    line = refusal(capsys, "prepare-genome", good, bad, "--out", tmp_path / "store")
    assert line.startswith(f"{bad}{BAD[case].says}".replace("{path}", str(bad)))
    assert sorted(tmp_path.iterdir()) == sorted([good, bad])


def test_whole_bgzip_file_is_taken(tmp_path: Path) -> None:
    source = write(tmp_path / "whole.fa.gz", bgzip(TEXT) + bytes.fromhex(BGZF_END))
    main(["prepare-genome", str(source), "--out", str(tmp_path / "store")])
    main(["verify", str(tmp_path / "store")])


def test_contig_of_two_files_is_refused_naming_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = write(tmp_path / "a.fa.gz", gzip_members(TEXT, 50)), write(tmp_path / "b.2bit", TWOBIT)
    line = refusal(capsys, "prepare-genome", first, second, "--out", tmp_path / "store")
    assert line == f"{second}: record 1: contig 'chr1' was seen before, at {first}:1"


def test_missing_source_and_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "store"
    missing = tmp_path / "none.fa"
    assert refusal(capsys, "prepare-genome", missing, "--out", out) == f"{missing}: no such file"
    assert "is a folder; give its FASTA" in refusal(capsys, "prepare-genome", tmp_path, "--out", out)
    assert "not a regular file" in refusal(capsys, "prepare-genome", "/dev/null", "--out", out)
    assert not list(tmp_path.iterdir())


def test_existing_folder_is_not_overwritten_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = write(tmp_path / "a.fa", TEXT), tmp_path / "store"
    arguments = ["prepare-genome", source, "--out", out]
    main(list(map(str, arguments)))
    capsys.readouterr()
    assert (
        refusal(capsys, *arguments) == f"{out} exists already; to replace the genome store there: --overwrite"
    )
    main([*map(str, arguments), "--overwrite"])
    capsys.readouterr()
    notes = write(out / "notes.txt", b"mine")
    assert "is not just a genome store" in refusal(capsys, *arguments, "--overwrite")
    assert "is a file; a genome store is a folder" in refusal(
        capsys, "prepare-genome", source, "--out", notes
    )
    assert notes.read_bytes() == b"mine"


def test_full_disk_is_told_before_it_is_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "a.2bit", TWOBIT)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1000, 900, 100))
    line = refusal(capsys, "prepare-genome", source, "--out", tmp_path / "store")
    assert line.startswith(f"the disk of {tmp_path} is too full: store needs about 361 bytes, 100 are free;")
    assert list(tmp_path.iterdir()) == [source]


def test_disk_that_fills_up_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "a.fa", TEXT)
    monkeypatch.setattr(convert, "BASES_FILE", "/dev/full")
    line = refusal(capsys, "prepare-genome", source, "--out", tmp_path / "store")
    assert line.startswith(f"the disk of {tmp_path} is full: store needs more than the ")
    assert list(tmp_path.iterdir()) == [source]


def test_damaged_store_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = convert_genome([write(tmp_path / "a.fa", TEXT)], tmp_path / "store", progress=False)
    bases = store.path / "bases.u8"
    bases.write_bytes(bases.read_bytes()[:-1] + b"\x07")
    assert refusal(capsys, "verify", store.path).startswith(f"{bases} is damaged: its SHA-256 is ")
    assert refusal(capsys, "verify", tmp_path).startswith(f"{tmp_path} is no genome store")
