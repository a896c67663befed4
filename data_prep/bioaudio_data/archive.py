"""Unpacking tar and zip archives into a folder that nothing in them can leave."""

from __future__ import annotations

import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, NamedTuple

from tqdm import tqdm

from bioaudio_data.atomic_folder import atomic_folder

SUFFIXES = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar", ".zip")
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    RuntimeError,  # a zip member that is encrypted, or packed in a way that Python does not know
)


class _Member(NamedTuple):
    name: str
    size: int
    kind: str
    """`file`, `folder`, or what else it is."""
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, out: Path, *, progress: bool = True) -> Path:
    """Unpack a tar (plain, gzip, xz, bzip2) or zip archive into a new folder, whole or not at all.

    Only files and folders come out, with default permissions. Links and devices are refused, as are names
    that begin with `/` or a drive or lead upwards: a data set needs none of them.

    Returns:
        `out`.

    Raises:
        ValueError: for a file that is no archive, is damaged, or has a member as above.
        FileNotFoundError: if there is no such archive.
        FileExistsError: if `out` exists and is not empty.
        OSError: if the disk is full.
    """
    if not archive.is_file():
        raise FileNotFoundError(f"{archive} does not exist, or is no file")
    if not archive.name.endswith(SUFFIXES):
        raise ValueError(f"{archive} is no archive: the name must end in {', '.join(SUFFIXES)}")
    hidden = None if progress else True  # None shows the bar on a terminal only
    with (
        atomic_folder(out) as partial,
        tqdm(desc=archive.name, unit="B", unit_scale=True, disable=hidden) as bar,
    ):
        try:
            for member in _zip_members(archive) if archive.suffix == ".zip" else _tar_members(archive):
                _extract(member, partial, archive)
                bar.update(member.size)
        except _DAMAGE as error:
            raise ValueError(f"{archive} is damaged: {error}") from error
    return out


def _extract(member: _Member, folder: Path, archive: Path) -> None:
    name = PurePosixPath(member.name)
    windows = PureWindowsPath(member.name)
    if name.is_absolute() or windows.drive or windows.root or ".." in (*name.parts, *windows.parts):
        raise ValueError(f"{archive} has a member that would leave its folder: {member.name!r}")
    path = folder.joinpath(*name.parts)
    if member.kind == "folder":
        path.mkdir(parents=True, exist_ok=True)
        return
    content = member.open() if member.kind == "file" else None
    if content is None:
        raise ValueError(
            f"{archive} has a member that is neither file nor folder: {member.name!r} ({member.kind})"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with content, path.open("xb") as file:
        shutil.copyfileobj(content, file)


def _tar_members(archive: Path) -> Iterator[_Member]:
    with tarfile.open(archive) as tar:
        for info in tar:
            kind = "file" if info.isreg() else "folder" if info.isdir() else "link or device"
            yield _Member(info.name, info.size, kind, lambda info=info: tar.extractfile(info))


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as container:
        for info in container.infolist():
            mode = stat.S_IFMT(info.external_attr >> 16)
            plain = "folder" if info.is_dir() else "file"
            kind = plain if mode in (0, stat.S_IFREG, stat.S_IFDIR) else "link or device"
            yield _Member(info.filename, info.file_size, kind, lambda info=info: container.open(info))
