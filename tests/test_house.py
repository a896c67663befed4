"""The rules of the house, enforced: rooms, file sizes, names, and no prints outside the command line."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("bioaudio_mamba", "kernels/bioaudio_kernels", "recipes/bioaudio_recipes", "data_prep/bioaudio_data")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
MAX_CODE_LINES = 300


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_imports_go_one_way() -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", SOURCES, ids=identify)
def test_a_file_is_one_idea(path: Path) -> None:
    lines = [
        line for line in path.read_text().splitlines() if line.strip() and not line.strip().startswith("#")
    ]
    assert len(lines) <= MAX_CODE_LINES, f"{len(lines)} code lines; split what is two ideas"
    assert path.stem not in {"utils", "common", "misc", "helpers"}, "the name says nothing"


@pytest.mark.parametrize("path", SOURCES, ids=identify)
def test_public_functions_are_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module has no docstring"
    public = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    missing = [node.name for node in public if not ast.get_docstring(node)]
    assert not missing, f"no docstring: {missing}"


@pytest.mark.parametrize("path", SOURCES, ids=identify)
def test_nothing_is_left_open(path: Path) -> None:
    found = re.findall(r"TODO|FIXME|XXX|NotImplementedError", path.read_text())
    assert not found, f"left open: {found}"
