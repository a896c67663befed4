"""config.yaml of a run: its resolved arguments, in the form that `--config` reads back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml


def save_config(path: Path, arguments: Mapping[str, Any]) -> None:
    """Write a command's arguments, atomically."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(yaml.safe_dump(plain(arguments), sort_keys=False), encoding="utf-8")
    partial.replace(path)


def plain(value: Any) -> Any:
    """Dataclasses and mappings as dicts, sequences as lists, paths absolute and as text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value.resolve()) if isinstance(value, Path) else value
