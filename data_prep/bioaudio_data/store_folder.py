"""What stores of DNA and of sound share: a folder with an index and one memory-mapped file with its hash."""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

INDEX_FILE = "index.json"
BLOCK_BYTES = 1 << 18
VERIFY_BYTES = 1 << 22


def store_format(folder: Path) -> str | None:
    """The `format` that a store's index names; None where there is no index, or none that can be read."""
    try:
        content = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("format") if isinstance(content, dict) else None


def check_out(out: Path, overwrite: bool, kind: str, data_files: frozenset[str]) -> None:
    """Only an older store may be overwritten, never a folder with anything else in it.

    Args:
        out: where the store shall be.
        overwrite: whether an older store there may go.
        kind: what the store is called, such as `genome store`.
        data_files: names of the files that such a store can have beside its index.

    Raises:
        FileExistsError: if `out` is a file, exists without `overwrite`, or holds anything else.
    """
    if out.is_dir():
        content = {path.name for path in out.iterdir()}
    elif out.exists():
        raise FileExistsError(f"{out} is a file; a {kind} is a folder: choose another --out")
    else:
        content = set()
    if content and not overwrite:
        raise FileExistsError(f"{out} exists already; to replace the {kind} there: --overwrite")
    if content and (INDEX_FILE not in content or content - {INDEX_FILE} - data_files):
        raise FileExistsError(
            f"{out} is not just a {kind}, so --overwrite leaves it alone: choose another --out"
        )


def map_bytes(path: Path, size: int, remake: str) -> np.ndarray:
    """Memory-map a file of exactly `size` bytes as read-only uint8 (size,).

    Args:
        path: the file.
        size: bytes that its index promises, at least 1.
        remake: the command that makes such a store, for the error.

    Raises:
        ValueError: if the file is missing or has another size.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing; make the store again with `{remake} --overwrite`")
    with path.open("rb") as file:
        actual = file.seek(0, 2)
        if actual != size or not size:
            raise ValueError(
                f"{path} has {actual:,} bytes where its index says {size:,}; "
                f"make the store again with `{remake} --overwrite`"
            )
        return np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), np.uint8)


def verify_bytes(content: np.ndarray, sha256: str, path: Path, remake: str, *, progress: bool) -> None:
    """Compare every byte of a mapped file with the hash in its index.

    Raises:
        ValueError: naming the file, if they differ.
    """
    digest, quiet = hashlib.sha256(), None if progress else True  # None: only on a terminal
    with tqdm(
        total=content.size, unit="B", unit_scale=True, desc=path.parent.name, leave=False, disable=quiet
    ) as bar:
        for start in range(0, content.size, VERIFY_BYTES):
            part = content[start : start + VERIFY_BYTES]
            digest.update(part.data)
            bar.update(part.size)
    if digest.hexdigest() != sha256:
        raise ValueError(
            f"{path} is damaged: its SHA-256 is {digest.hexdigest()}, the index says "
            f"{sha256}; make the store again with `{remake} --overwrite`"
        )


def sha256_of(path: Path, advance: Callable[[int], object] = lambda size: None) -> str:
    """SHA-256 of a file as it is on disk; `advance` is told how many bytes were read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()
