"""BED files: what is written comes back, and what is wrong is named by file and line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from bioaudio_data.bed import read_bed, write_bed
from bioaudio_data.interval import Interval
from bioaudio_recipes.cli import main
from hypothesis import given
from hypothesis import strategies as st

WORDS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=8).filter(
    lambda word: not word.startswith("#") and word not in (".", "track", "browser") and len(word.split()) == 1
)
POSITIONS = st.integers(0, 10**9)


@st.composite
def bed_intervals(draw: st.DrawFn) -> list[Interval]:
    layout = draw(st.sampled_from(["plain", "split", "named"]))
    result = []
    for _ in range(draw(st.integers(1, 8))):
        start = draw(POSITIONS)
        extra: dict = {}
        if layout == "split":
            extra = {"split": draw(st.sampled_from(["train", "valid", "test"]))}
        elif layout == "named":
            extra = {"name": draw(st.none() | WORDS), "strand": draw(st.sampled_from("+-."))}
        result.append(Interval(draw(WORDS), start, start + draw(st.integers(1, 10**6)), **extra))
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bed")


@given(intervals=bed_intervals(), suffix=st.sampled_from([".bed", ".bed.gz"]))
def test_what_is_written_comes_back(folder: Path, intervals: list[Interval], suffix: str) -> None:
    path = folder / f"round{suffix}"
    write_bed(path, intervals)
    key = {contig: i for i, contig in enumerate(dict.fromkeys(interval.contig for interval in intervals))}
    expected = sorted(intervals, key=lambda interval: (key[interval.contig], interval.start, interval.end))
    assert read_bed(path, sort=True) == expected


def test_headers_blank_lines_and_windows_line_ends_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.bed"
    path.write_bytes(
        b"\xef\xbb\xbf# a comment\r\nbrowser position chr1:1-5\r\ntrack name=x\r\n\r\n"
        b"chr1\t0\t10\ttrain\r\n   \r\nchr1\t20\t30\ttest\r\n"
    )
    assert read_bed(path) == [
        Interval("chr1", 0, 10, split="train"),
        Interval("chr1", 20, 30, split="test"),
    ]


def test_six_columns_give_name_and_strand_and_spaces_separate(tmp_path: Path) -> None:
    path = tmp_path / "a.bed"
    path.write_text("chr1 0 10 gene 960 -\nchr1 5 12 . 0 +\n")
    assert read_bed(path) == [
        Interval("chr1", 0, 10, strand="-", name="gene"),
        Interval("chr1", 5, 12, strand="+"),
    ]


def test_a_fourth_column_without_any_split_word_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a.bed"
    path.write_text("chr1\t0\t10\tgene\n")
    assert read_bed(path) == [Interval("chr1", 0, 10, name="gene")]
    assert read_bed(path, split_words=("gene",)) == [Interval("chr1", 0, 10, split="gene")]


def test_a_shuffled_file_is_sorted_on_request(tmp_path: Path) -> None:
    path = tmp_path / "a.bed"
    path.write_text("chrX\t50\t60\ttrain\nchr1\t7\t9\ttest\nchrX\t10\t20\tvalid\n")
    with pytest.raises(
        ValueError, match="line 3: unsorted: chrX:10-20 comes after chrX:50-60; give --sort-bed"
    ):
        read_bed(path)
    assert [str(i) for i in read_bed(path, sort=True)] == ["chrX:10-20", "chrX:50-60", "chr1:7-9"]
    by_genome = read_bed(path, {"chr1": 100, "chrX": 100}, sort=True)
    assert [str(i) for i in by_genome] == ["chr1:7-9", "chrX:10-20", "chrX:50-60"]


def test_contigs_may_alternate_in_a_sorted_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bed"
    path.write_text("chr2\t0\t9\nchr1\t3\t9\nchr2\t0\t9\n")
    assert len(read_bed(path)) == 3


CONTIGS = {"chr1": 1000, "chr2": 500, "chr3": 5, "chr4": 5}
BAD_LINES = {
    "chr1\t0\n": "line 2: has 2 columns, the file needs 4",
    "chr1\t0\t9\n": "line 2: has 3 columns, the file needs 4",
    "chr1\t0\t9\ttrain\t0\n": "line 2: has 5 columns, the file needs 4",
    "chr1\tzero\t9\ttrain\n": "line 2: start and end must be whole numbers, got 'zero' and '9'",
    "chr1\t-1\t9\ttrain\n": "line 2: start and end must be whole numbers",
    "chr1\t0\t9.5\ttrain\n": "line 2: start and end must be whole numbers",
    f"chr1\t0\t{10**30}\ttrain\n": "line 2: start and end must be whole numbers",
    "chr1\t9\t9\ttrain\n": "line 2: the end must be greater than the start, got 9 and 9",
    "chr1\t9\t1\ttrain\n": "line 2: the end must be greater than the start",
    "\t1\t9\ttrain\n": "line 2: the contig's name must be one word, got ''",
    "chr2\t0\t501\ttrain\n": "line 2: chr2:0-501 ends beyond its contig, which has 500 bases",
    "chr9\t0\t9\ttrain\n": "line 2: unknown contig 'chr9'; the genome has chr1, chr2, chr3 and 1 more",
    "chr1\t0\t9\ttrian\n": "line 2: unknown split 'trian'; allowed: train, valid, test",
    "chr1\t0\t9\ttrain\r\nchr1\t\r\n": "line 3: has 2 columns",
    "chr1\t50\t60\ttest\nchr1\t40\t45\ttest\n": "line 3: unsorted",
}


@pytest.mark.parametrize("text", BAD_LINES, ids=lambda text: repr(text)[:40])
def test_bad_lines_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.bed"
    path.write_text("chr1\t0\t5\ttrain\n" + text, newline="")
    with pytest.raises(ValueError, match=r"bad\.bed, line") as error:
        read_bed(path, CONTIGS)
    assert BAD_LINES[text] in str(error.value)


def test_an_unknown_strand_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.bed"
    path.write_text("chr1\t0\t10\tx\t0\t*\n")
    with pytest.raises(ValueError, match=r"line 1: the strand must be one of \+ - \., got '\*'"):
        read_bed(path)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"# nothing\n"])
def test_a_file_without_intervals_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty.bed"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"empty\.bed: holds no interval"):
        read_bed(path)


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[: len(b) // 2], lambda b: b"BED" + b])
def test_damaged_gzip_is_refused(tmp_path: Path, damage) -> None:
    path = tmp_path / "cut.bed.gz"
    path.write_bytes(damage(gzip.compress(b"chr1\t0\t10\n" * 100)))
    with pytest.raises(ValueError, match=r"cut\.bed\.gz: not a whole gzip file"):
        read_bed(path)


@pytest.mark.parametrize(
    "intervals",
    [
        [Interval("a", 0, 1, split="train"), Interval("a", 2, 3)],
        [Interval("a", 0, 1, split="train", name="x")],
        [Interval("a", 0, 1, split="train", strand="+")],
        [Interval("a", -1, 1)],
        [Interval("a", 0, 1, name="two words")],
        [Interval("a", 0, 1, name="")],
        [Interval("#a", 0, 1)],
        [Interval("track", 0, 1)],
    ],
)
def test_what_bed_cannot_hold_is_not_written(tmp_path: Path, intervals: list[Interval]) -> None:
    with pytest.raises(ValueError, match=r"out\.bed: "):
        write_bed(tmp_path / "out.bed", intervals)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("chr1\t0\n", "line 1: has 2 columns"),
        ("chr1\t0\tx\ttrain\n", "line 1: start and end"),
        ("chr1\t0\t10\ttrain\r\nchr1\t20\t15\ttrain\r\n", "line 2: the end must be greater"),
        ("chr1\t50\t90\ttrain\nchr1\t10\t40\ttrain\n", "line 2: unsorted"),
        ("chr1\t0\t10\ttrain\nchr1\t20\t30\ttran\n", "line 2: unknown split"),
        ("chr1\t0\t10\nchr1\t20\t30\n", "names no split"),
        ("", "holds no interval"),
    ],
)
def test_the_command_line_answers_bad_beds_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, place: str
) -> None:
    path = tmp_path / "bad.bed"
    path.write_text(text, newline="")
    with pytest.raises(SystemExit) as exit_:
        main(["plan", "--bed", str(path)])
    captured = capsys.readouterr()
    assert exit_.value.code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert place in captured.err
    if "no split" not in place:
        assert str(path) in captured.err
