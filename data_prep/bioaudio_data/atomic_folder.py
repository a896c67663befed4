"""A folder that appears whole or not at all, whatever kills the process that writes it."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def atomic_folder(out: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty sibling of `out` to write into; on a clean exit it is synced and renamed to `out`.

    On an exception it is removed. A killed process leaves a hidden `.NAME.partial-...` folder, which the next
    call for the same `out` removes (a lock tells it from one that is still being written). With `replace`, an
    existing `out` is exchanged for the new folder in one step, where the system can (Linux).

    Raises:
        FileExistsError: if `out` exists and is not an empty folder, without `replace`; or appeared meanwhile.
        OSError: if the disk is full, naming the folder and the bytes.
    """
    out = out.resolve()
    if not replace and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(f"{out} exists already")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial-{secrets.token_hex(4)}")
    with ExitStack() as stack:
        with _locked(out.parent):
            _remove_stale(out)
            partial.mkdir()
            stack.callback(shutil.rmtree, partial, ignore_errors=True)
            stack.enter_context(_locked(partial))
        try:
            yield partial
            _sync(partial)
            _commit(partial, out, replace)
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            written = sum(file.stat().st_size for file in partial.rglob("*"))
            free = shutil.disk_usage(out.parent).free
            raise OSError(
                f"the disk of {out.parent} is full: {out.name} needs more than the {written:,} bytes "
                f"written, {free:,} are left; free some space or choose another folder"
            ) from error


def check_space(out: Path, needed: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        OSError: if the disk of `out` has less than `needed` bytes free.
    """
    folder = next(parent for parent in out.resolve().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"the disk of {folder} is too full: {out.name} needs about {needed:,} bytes, {free:,} are free; "
            "free some space or choose another folder"
        )


def _remove_stale(out: Path) -> None:
    """Remove what killed runs left; their locks ended with them."""
    for folder in out.parent.iterdir():
        if folder.name.startswith(f".{out.name}.partial-"):
            with _locked(folder, fcntl.LOCK_NB) as held:
                if held:
                    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path, flags: int = 0) -> Iterator[bool]:
    """Hold a folder's lock; yields False if another process has it, or the file system has no locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
            held = True
        except OSError:
            held = False
        yield held
    finally:
        os.close(descriptor)


def _commit(partial: Path, out: Path, replace: bool) -> None:
    """Rename `partial` to `out`; what was at `out` ends up under a partial's name, to be removed."""
    try:
        if not replace or not out.exists():
            partial.rename(out)
        elif not _exchange(partial, out):
            old = partial.with_name(f"{partial.name}-old")
            out.rename(old)
            partial.rename(out)
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise FileExistsError(f"{out} was made by another process meanwhile") from error
    _sync_one(out.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths in one step (`renameat2` of Linux); False where the system or its file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0


def _sync(folder: Path) -> None:
    """Flush a folder, and every file and folder below it, to the disk."""
    for path in (*folder.rglob("*"), folder):
        _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
