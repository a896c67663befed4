"""Downloads that are right or not there: resumed, checked, and only then renamed into place."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

from bioaudio_data.bed import read_bed
from bioaudio_data.sources import Source, find_sources
from bioaudio_data.transfer import Patience, discard, fetch

_MD5_LINE = re.compile(r"([0-9a-fA-F]{32}) [ *]?(.+)")


def download(
    name: str,
    out: Path,
    *,
    mirror: str | None = None,
    md5: str | None = None,
    sha256: str | None = None,
    patience: Patience | None = None,
    progress: bool = True,
) -> list[Path]:
    """Fetch named files, or any one file.

    Args:
        name: of a source or group of `sources`, or else a URL (http, https, file) or the path of a file.
        out: folder to put the files in; made if it does not exist.
        mirror: URL or folder to fetch from instead of the published server. A file, or list of checksums,
            is looked for there under the path it has on that server, then directly.
        md5: checksum of the file, if `name` is a URL or path.
        sha256: the same.
        patience: how long to try.
        progress: show a bar on stderr, if that is a terminal.

    Returns:
        The files, in `out`. Those that were there already, and are right, are not fetched again.

    Raises:
        ValueError: for an unknown name, or a file whose content is wrong.
        FileNotFoundError: if there is no such file.
        ConnectionError: if the server refuses or fails too often; the same call then goes on.
    """
    if "://" in name or Path(name).is_file():
        url = name if "://" in name else Path(name).absolute().as_uri()
        sources = [Source(url=url, md5=md5, sha256=sha256)]
    elif md5 or sha256:
        raise ValueError(
            f"--md5 and --sha256 go with a URL or a path; what {name!r} must be is known already"
        )
    else:
        sources = find_sources(name)
    return [
        download_source(source, out, mirror=mirror, patience=patience, progress=progress)
        for source in sources
    ]


def download_source(
    source: Source,
    out: Path,
    *,
    mirror: str | None = None,
    patience: Patience | None = None,
    progress: bool = True,
) -> Path:
    """Fetch one file; arguments and errors as `download`."""
    out.mkdir(parents=True, exist_ok=True)
    target = out / source.filename
    partial = target.with_name(target.name + ".partial")
    checksums = {"md5": source.md5, "sha256": source.sha256}
    if source.md5_list is not None:
        listing = target.with_name(target.name + ".md5sum.partial")
        _fetch_any(_locations(source.md5_list, mirror), listing, patience, progress=False)
        text = listing.read_text(encoding="utf-8", errors="replace")
        discard(listing)
        checksums["md5"] = _listed_md5(text, source)
    if target.exists():
        if wrong := _what_is_wrong(target, checksums, source.split_rows):
            raise ValueError(f"{target} exists but {wrong}; remove it to download it again")
        return target
    _fetch_any(_locations(source.url, mirror), partial, patience, progress)
    if wrong := _what_is_wrong(partial, checksums, source.split_rows):
        discard(partial)
        raise ValueError(
            f"{source.url}: what came is damaged and was removed: it {wrong}; try again, or a --mirror"
        )
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(target)
    discard(partial)
    return target


def digest(path: Path, algorithm: str) -> str:
    """Checksum of a file in hexadecimal, by a name of `hashlib`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _locations(url: str, mirror: str | None) -> list[str]:
    """Addresses to try, in order."""
    if mirror is None:
        return [url]
    base = (mirror if "://" in mirror else Path(mirror).absolute().as_uri()).rstrip("/")
    path = urlparse(url).path
    return [base + path, f"{base}/{PurePosixPath(path).name}"]


def _fetch_any(locations: list[str], partial: Path, patience: Patience | None, progress: bool) -> None:
    """Fetch from the first address that has the file."""
    for i, url in enumerate(locations):
        try:
            return fetch(url, partial, patience=patience, progress=progress)
        except FileNotFoundError:
            if i + 1 == len(locations):
                raise


def _listed_md5(text: str, source: Source) -> str:
    for line in text.splitlines():
        match = _MD5_LINE.fullmatch(line.strip())
        if match and PurePosixPath(match[2]).name == source.filename:
            return match[1]
    raise ValueError(f"{source.md5_list} has no line for {source.filename}, so it cannot be checked")


def _what_is_wrong(
    path: Path, checksums: Mapping[str, str | None], split_rows: Mapping[str, int] | None
) -> str | None:
    """What a file's content fails to agree with, as the end of a sentence; None if it is right."""
    for algorithm, expected in checksums.items():
        if expected is not None and (found := digest(path, algorithm)) != expected.lower():
            return f"has {algorithm} {found} instead of {expected.lower()}"
    if split_rows is not None:
        try:
            counts = Counter(interval.split for interval in read_bed(path, sort=True))
        except ValueError as error:
            return f"is no interval file ({error})"
        if counts != split_rows:
            return f"has rows {dict(counts)} instead of {dict(split_rows)}"
    return None
