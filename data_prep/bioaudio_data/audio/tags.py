"""What is known of a clip besides its sound, from its folder, its name or a CSV: label, speaker, groups."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class Tags:
    """What is known of one file."""

    label: str | None = None
    speaker: str | None = None
    split: str | None = None
    """The split that a CSV names."""
    groups: Mapping[str, str] | None = None
    """The named groups of the pattern."""


@dataclass(frozen=True, kw_only=True)
class TagConfig:
    """Where labels and speakers come from; without any of these a clip has none.

    Raises:
        ValueError: for a pattern that is no regular expression, or a label from two places.
    """

    folders: bool = False
    """The label is the name of the folder that a file lies in."""
    pattern: str | None = None
    r"""A regular expression for a file's name without folders and extension, whose named groups are tags,
    such as `(?P<label>\d)_(?P<speaker>\w+)_(?P<index>\d+)`; `--split.by` can name any of the groups."""
    table: Path | None = None
    """A CSV with the columns file (its path below the folder) and any of label, speaker, split."""
    keep_labels: tuple[str | int, ...] = ()
    """Only clips with these labels are stored; all, if empty."""

    def __post_init__(self) -> None:
        try:
            names = set(re.compile(self.pattern or "").groupindex)
        except re.error as error:
            raise ValueError(f"--tags.pattern {self.pattern!r} is no regular expression: {error}") from error
        if self.pattern is not None and not names:
            raise ValueError(f"--tags.pattern {self.pattern!r} names no group, such as (?P<label>...)")
        if self.folders and "label" in names:
            raise ValueError(
                "--tags.folders and the group label of --tags.pattern both give labels; drop one"
            )
        if self.keep_labels and not (self.folders or self.table or "label" in names):
            raise ValueError("--tags.keep_labels needs labels: --tags.folders, .pattern or .table")

    @property
    def wanted_labels(self) -> tuple[str, ...]:
        """`keep_labels` as text: YAML reads digits as numbers."""
        return tuple(map(str, self.keep_labels))


def read_tags(folder: Path, files: Sequence[str], config: TagConfig) -> dict[str, Tags | str]:
    """Tags of every file, or what is wrong with it.

    Args:
        folder: the folder of the files.
        files: their paths below it, with `/`.
        config: where tags come from.

    Returns:
        By file: its tags, or the end of a sentence that says what is missing. Files whose label is not kept
        are left out.

    Raises:
        FileNotFoundError: if there is no such table.
        ValueError: for a damaged table, one that names files that are not there, or labels that no file has.
    """
    rows = None if config.table is None else _read_table(config.table, folder, set(files))
    pattern = None if config.pattern is None else re.compile(config.pattern)
    tags = {file: _tags_of(file, config, pattern, rows) for file in files}
    labels = {tag.label for tag in tags.values() if isinstance(tag, Tags)}
    wanted = config.wanted_labels
    if unknown := [label for label in wanted if label not in labels]:
        raise ValueError(f"{folder} has no file with label {unknown[0]!r}, which --tags.keep_labels asks for")
    kept = set(wanted) or labels
    return {file: tag for file, tag in tags.items() if isinstance(tag, str) or tag.label in kept}


def _tags_of(
    file: str,
    config: TagConfig,
    pattern: re.Pattern[str] | None,
    rows: Mapping[str, Mapping[str, str]] | None,
) -> Tags | str:
    path = PurePosixPath(file)
    found: dict[str, str | None] = {}
    groups: dict[str, str] = {}
    if config.folders:
        if len(path.parts) < 2:
            return "has no label: it lies in no folder (--tags.folders)"
        found["label"] = path.parts[-2]
    if pattern is not None:
        match = pattern.fullmatch(path.stem)
        if match is None:
            return f"has no label: its name does not match --tags.pattern {pattern.pattern}"
        groups = {name: value for name, value in match.groupdict().items() if value is not None}
        found |= {name: groups[name] for name in ("label", "speaker") if name in groups}
    if rows is not None:
        if file not in rows:
            return f"has no label: {config.table} has no row for it"
        found |= {name: value for name, value in rows[file].items() if name != "file" and value}
    return Tags(found.get("label"), found.get("speaker"), found.get("split"), groups)


def _read_table(path: Path, folder: Path, files: set[str]) -> dict[str, dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file (--tags.table)")
    allowed = ("file", "label", "speaker", "split")
    rows: dict[str, dict[str, str]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines, strict=True)
            columns = reader.fieldnames or []
            if "file" not in columns or set(columns) - set(allowed):
                raise ValueError(
                    f"{path}: the columns must be file and any of {', '.join(allowed[1:])}; got {columns}"
                )
            for row in reader:
                place = f"{path}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise ValueError(f"{place}: has not {len(columns)} columns")
                if row["file"] not in files:
                    raise ValueError(f"{place}: {folder / row['file']} is no audio file of the folder")
                if row["file"] in rows:
                    raise ValueError(f"{place}: {row['file']} has a row already")
                rows[row["file"]] = dict(row)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV file in UTF-8: {error}") from error
    return rows
