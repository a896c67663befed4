"""What to say of bad input: the parser's and the system's errors in words of the command line."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

RECIPES = Path(__file__).parent / "configs"

_UNION = re.compile(
    r'Parser key "(?P<key>[\w.]+)":\s+Does not validate against any of the Union subtypes'
    r".*?Errors:\s+- (?P<first>.+?)(?: - .*?|\s*)Given value type: .*?Given value: (?P<value>.*)"
)
_LITERAL = re.compile(r"typing\.Literal\[(.*?)\]")
_SETTINGS = "Expected a dot import path string"
"""How jsonargparse refuses text in the place of a dataclass."""


def no_such_recipe(command: str, name: str) -> str:
    """What to say of a `--config` that is neither a file nor the name of a recipe."""
    if Path(name).is_dir():
        return f"--config {name} is a folder; give a YAML file"
    recipes = ", ".join(f"{command}/{path.stem}" for path in sorted((RECIPES / command).glob("*.yaml")))
    known = f", nor one of the recipes {recipes}" if recipes else ""
    return f"--config {name}: no such file{known}"


def in_words(message: str) -> str:
    """A parser's message in one line, without what it says of types that do not matter."""
    text = " ".join(message.split())
    found = _UNION.search(text)
    if found is None:
        return text
    if found["first"].startswith(_SETTINGS):
        names = _LITERAL.search(text)
        allowed = f"{names[1].replace(chr(39), '')}, or settings" if names else "settings"
        key = found["key"]
        said = f"--{key} {found['value']}: allowed are {allowed}, as --{key}.NAME VALUE (--{key}.help)"
    else:  # what the first of several types says of the value is enough
        said = f'Parser key "{found["key"]}": {found["first"]}'
    return text[: found.start()] + said


def place_in_config(message: str, arguments: Sequence[str]) -> str:
    """`FILE, line N: ` where the key that a message quotes stands in a file given to `--config`."""
    quoted = re.search(r"""['"]([A-Za-z_][\w.]*)['"]""", message)
    spelled = [part for argument in arguments for part in argument.split("=", 1)]
    files = [value for flag, value in pairwise(spelled) if flag == "--config"]
    if quoted is None or any(argument.startswith(f"--{quoted[1]}") for argument in arguments):
        return ""
    for file in filter(os.path.isfile, reversed(files)):  # the last one decides
        for number, line in enumerate(Path(file).read_text(encoding="utf-8").splitlines(), start=1):
            if line.strip().startswith(f"{quoted[1].rpartition('.')[2]}:"):
                return f"{file}, line {number}: "
    return ""


def of_the_system(error: OSError) -> str:
    """An error of the system as `PATH: what is wrong with it`; one in words of ours as it is."""
    if error.errno is None or error.filename is None:
        return error.strerror or str(error)
    path = Path(str(error.filename2 or error.filename))
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        for part in (path, *path.parents):
            if part.exists() and not part.is_dir():
                return f"{part} exists and is not a folder"
    if error.errno == errno.EISDIR:
        return f"{path} is a folder, not a file"
    return f"{path}: {(error.strerror or str(error)).lower()}"
