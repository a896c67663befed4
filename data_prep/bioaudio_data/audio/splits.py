"""Dividing clips into train, valid and test: by file, by lists, by a table, or by groups of their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bioaudio_data.audio.tags import Tags

SPLITS = ("train", "valid", "test")
_LISTS = {"valid": "validation_list.txt", "test": "testing_list.txt"}
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How files are divided.

    Raises:
        ValueError: for fractions that are negative or do not add up to 1.
    """

    by: str = "file"
    """`file`: by fractions of the files in natural order. `lists`: validation_list.txt and testing_list.txt
    in the folder, as Speech Commands has them. `table`: the column split of `--tags.table`. Else `speaker`,
    `label` or a group of `--tags.pattern`: all files with the same value go to one split."""
    fractions: tuple[float, float, float] = (0.88, 0.06, 0.06)
    """Shares of train, valid and test, of the files or of the values of a group in natural order."""
    valid: tuple[str | int, ...] = ()
    """Of a group: values for validation, such as a name or a range `5-9`; takes the place of the
    fractions."""
    test: tuple[str | int, ...] = ()
    """Of a group: values for the test."""

    def __post_init__(self) -> None:
        if min(self.fractions) < 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError(
                f"--split.fractions must be three shares that add up to 1, got {list(self.fractions)}"
            )
        if (self.valid or self.test) and self.by in ("file", "lists", "table"):
            raise ValueError(
                f"--split.valid and --split.test list values of a group; --split.by is {self.by}"
            )


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sorting by it puts `clip2` before `clip10`."""
    return tuple(
        (1, int(part), part) if part.isdecimal() else (0, 0, part) for part in re.split(r"(\d+)", text)
    )


def split_files(folder: Path, tags: Mapping[str, Tags], config: SplitConfig) -> dict[str, str]:
    """The split of every file.

    Args:
        folder: where the lists of `lists` are.
        tags: of every file, by its path below the folder, in natural order.
        config: how to divide.

    Returns:
        train, valid or test by file.

    Raises:
        FileNotFoundError: if a list is missing.
        ValueError: for a file without the group or split, values that no file has, an unknown split in the
            table, or a share of the fractions that is less than one file.
    """
    if config.by == "file":
        return _by_fractions(list(tags), config.fractions, "files")
    if config.by == "lists":
        return _by_lists(folder, list(tags))
    values = {file: _value(file, tag, config.by) for file, tag in tags.items()}
    if config.by == "table":
        for file, split in values.items():
            if split not in SPLITS:
                raise ValueError(
                    f"{file}: the table names split {split!r}; it must be one of {', '.join(SPLITS)}"
                )
        return values
    distinct = sorted(set(values.values()), key=natural_key)
    if not (config.valid or config.test):
        chosen = _by_fractions(distinct, config.fractions, f"values of {config.by}")
    else:
        chosen = dict.fromkeys(distinct, "train")
        for split, wanted in (("valid", config.valid), ("test", config.test)):
            for value in _expanded(wanted, chosen, split):
                if chosen[value] != "train":
                    raise ValueError(f"{config.by} {value!r} is given to both --split.valid and --split.test")
                chosen[value] = split
    return {file: chosen[value] for file, value in values.items()}


def _value(file: str, tags: Tags, name: str) -> str:
    known = {"label": tags.label, "speaker": tags.speaker, "table": tags.split}
    value = known[name] if name in known else (tags.groups or {}).get(name)
    if value is None:
        raise ValueError(
            f"--split.by {name} needs a {'split' if name == 'table' else name} of every file, and {file} "
            "has none; see --tags.pattern, --tags.table"
        )
    return value


def _by_fractions(items: Sequence[str], fractions: Sequence[float], what: str) -> dict[str, str]:
    ends = [round(sum(fractions[: i + 1]) * len(items)) for i in range(len(SPLITS))]
    result, begin = {}, 0
    for split, share, end in zip(SPLITS, fractions, ends, strict=True):
        if share > 0 and end == begin:
            raise ValueError(
                f"split {split} would have none of the {len(items)} {what}: change --split.fractions (now "
                f"{list(fractions)}; a share of 0 is allowed)"
            )
        result |= dict.fromkeys(items[begin:end], split)
        begin = end
    return result


def _by_lists(folder: Path, files: Sequence[str]) -> dict[str, str]:
    result = dict.fromkeys(files, "train")
    for split, name in _LISTS.items():
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no such file; --split.by lists needs {', '.join(_LISTS.values())}"
            )
        listed = {line.strip() for line in path.read_text(encoding="utf-8").splitlines()}
        members = [file for file in files if file in listed]
        if not members:
            raise ValueError(f"{path} lists none of the files of {folder}")
        for file in members:
            if result[file] != "train":
                raise ValueError(f"{file} is in both {_LISTS['valid']} and {_LISTS['test']} of {folder}")
            result[file] = split
    return result


def _expanded(wanted: Sequence[str | int], known: Mapping[str, str], split: str) -> list[str]:
    """Values with ranges of numbers written out; a number matches however many zeros it begins with."""
    result: list[str] = []
    for value in map(str, wanted):
        span = _RANGE.fullmatch(value)
        if value in known or span is None:
            found = [value] if value in known else []
        else:
            low, high = int(span[1]), int(span[2] or span[1])
            found = [item for item in known if item.isdecimal() and low <= int(item) <= high]
        if not found:
            raise ValueError(
                f"--split.{split} {value!r} is the value of no file; there are {_first(list(known))}"
            )
        result += found
    return result


def _first(items: Sequence[str], number: int = 8) -> str:
    return ", ".join(items[:number]) + (", ..." if len(items) > number else "")
