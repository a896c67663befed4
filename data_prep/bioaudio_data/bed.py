"""BED files in and out: HyenaDNA's four columns (contig, start, end, split) or plain BED."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, cast

from bioaudio_data.interval import STRANDS, Interval, Strand

SPLIT_WORDS = ("train", "valid", "test")
_POSITION = re.compile(r"[0-9]{1,18}")


def read_bed(
    path: Path | str,
    contigs: Mapping[str, int] | None = None,
    *,
    sort: bool = False,
    split_words: Collection[str] = SPLIT_WORDS,
) -> list[Interval]:
    """Read a BED file, plain or gzip (`.gz`), skipping comments, `track` and `browser` lines and blank lines.

    The fourth of exactly four columns is the split if any line has one of `split_words` there, else the name.
    Of five columns and more, the fourth is the name and the sixth the strand; the others are ignored.

    Args:
        path: the file. Windows line ends are accepted.
        contigs: lengths of the contigs, if every interval must lie inside one of them.
        sort: accept intervals in any order, and return them by contig (in the order of `contigs`, else of the
            file), start and end. Published lists are often shuffled; elsewhere disorder means damage.
        split_words: names of splits that may appear.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming file and line: missing columns, no whole numbers, end <= start, beyond its
            contig's end, an unknown contig, split or strand, unsorted (without `sort`); or a file without
            intervals, or gzip cut short.
    """
    path = Path(path)
    rows = list(_rows(path))
    if not rows:
        raise ValueError(f"{path}: holds no interval")
    width = len(rows[0][1])
    has_splits = width == 4 and any(fields[3:4] and fields[3] in split_words for _, fields in rows)
    intervals: list[Interval] = []
    latest: dict[str, Interval] = {}
    for line, fields in rows:
        if len(fields) != width or width < 3:
            wanted = "contig, start, end" + ", split" * has_splits
            _fail(path, line, f"has {len(fields)} columns, the file needs {max(width, 3)} ({wanted} ...)")
        interval = _interval(path, line, fields, split_words if has_splits else None)
        if contigs is not None:
            _check_inside(path, line, interval, contigs)
        before = latest.get(interval.contig, interval)
        if not sort and interval.start < before.start:
            hint = "give --sort-bed (sort=True) to take intervals in any order"
            _fail(path, line, f"unsorted: {interval} comes after {before}; {hint}")
        latest[interval.contig] = interval
        intervals.append(interval)
    if sort:
        place = {contig: i for i, contig in enumerate(contigs or latest)}
        intervals.sort(key=lambda interval: (place[interval.contig], interval.start, interval.end))
    return intervals


def write_bed(path: Path | str, intervals: Sequence[Interval]) -> None:
    """Write intervals, whole or not at all: 4 columns with splits, 6 with names or strands, else 3.

    Compressed if the file's name ends in `.gz`.

    Raises:
        ValueError: if intervals have splits beside names or strands (no BED layout holds both), only some
            have a split, or one would not be read back as it is.
    """
    path = Path(path)
    with_splits = any(interval.split is not None for interval in intervals)
    with_names = any(interval.name is not None or interval.strand != "." for interval in intervals)
    if with_splits and (with_names or any(interval.split is None for interval in intervals)):
        raise ValueError(f"{path}: a BED of splits has one for every interval, and no names or strands")
    lines = []
    for interval in intervals:
        fields = [interval.contig, str(interval.start), str(interval.end)]
        if interval.split is not None:
            fields.append(interval.split)
        if with_names:
            fields += ["." if interval.name is None else interval.name, "0", interval.strand]
        line = "\t".join(fields)
        if interval.start < 0 or interval.name == "." or line.split() != fields or _is_comment(line):
            raise ValueError(f"{path}: BED cannot hold {interval!r}")
        lines.append(line + "\n")
    content = "".join(lines).encode()
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    partial.replace(path)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number, from 1, and fields of every line that holds data."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                text = raw.decode("utf-8-sig", errors="replace").rstrip("\r\n")
                if text.strip() and not _is_comment(text):
                    yield number, text.split("\t") if "\t" in text else text.split()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error})") from error


def _is_comment(line: str) -> bool:
    return line.startswith("#") or line.split(maxsplit=1)[0] in ("track", "browser")


def _interval(path: Path, line: int, fields: list[str], split_words: Collection[str] | None) -> Interval:
    """The interval of a line: with a split if `split_words` are given, else with its name and strand."""
    contig, start, end, *more = fields
    if not (_POSITION.fullmatch(start) and _POSITION.fullmatch(end)):
        _fail(path, line, f"start and end must be whole numbers, got {start!r} and {end!r}")
    if int(end) <= int(start):
        _fail(path, line, f"the end must be greater than the start, got {start} and {end}")
    if contig.split() != [contig]:
        _fail(path, line, f"the contig's name must be one word, got {contig!r}")
    if split_words is not None:
        if more[0] not in split_words:
            _fail(path, line, f"unknown split {more[0]!r}; allowed: {', '.join(split_words)}")
        return Interval(contig, int(start), int(end), split=more[0])
    name = more[0] if more and more[0] not in ("", ".") else None
    strand = more[2] if len(more) > 2 else "."
    if strand not in STRANDS:
        _fail(path, line, f"the strand must be one of {' '.join(STRANDS)}, got {strand!r}")
    return Interval(contig, int(start), int(end), strand=cast(Strand, strand), name=name)


def _check_inside(path: Path, line: int, interval: Interval, contigs: Mapping[str, int]) -> None:
    if interval.contig not in contigs:
        names = list(contigs)
        known = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        _fail(path, line, f"unknown contig {interval.contig!r}; the genome has {known}")
    if interval.end > contigs[interval.contig]:
        _fail(path, line, f"{interval} ends beyond its contig, which has {contigs[interval.contig]} bases")


def _fail(path: Path, line: int, message: str) -> NoReturn:
    raise ValueError(f"{path}, line {line}: {message}")
