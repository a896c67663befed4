"""Getting one file's bytes over HTTP or from a disk, going on after cuts and restarts."""

from __future__ import annotations

import errno
import json
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse
from urllib.request import Request, url2pathname, urlopen

from tqdm import tqdm

BLOCK = 1 << 18
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to try."""

    attempts: int = 6
    """Failures in a row without a new byte, after which to give up."""
    pause: float = 1.0
    """Seconds before the second attempt; doubled for each further one, up to a minute."""
    timeout: float = 60.0
    """Seconds that a server may stay silent."""


@dataclass(frozen=True)
class _Version:
    """What tells one state of a file on a server from another."""

    url: str
    etag: str | None
    last_modified: str | None
    size: int | None

    @property
    def condition(self) -> str | None:
        """Value of an `If-Range` header: only a strong ETag or a date promises the same bytes."""
        strong = self.etag if self.etag and not self.etag.startswith("W/") else None
        return strong or self.last_modified

    def may_be(self, other: _Version) -> bool:
        """Whether nothing that both tell differs; the answer with a part of a file need not tell all."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return all(None in pair or pair[0] == pair[1] for pair in pairs)

    @classmethod
    def load(cls, note: Path, url: str) -> _Version | None:
        """What was noted of the file at `url`, or None if nothing was."""
        try:
            version = cls(**json.loads(note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return version if version.url == url else None


class _Interrupted(Exception):
    """The transfer stopped for a reason that may pass."""


def fetch(url: str, partial: Path, *, patience: Patience | None = None, progress: bool = True) -> None:
    """Bring the bytes of `url` into `partial`, going on from what an earlier call left there.

    That is continued only if the server says that the file is still the same (ETag or date of change, and
    size); otherwise the transfer starts anew. Whether the bytes are right is for `download` to say.

    Args:
        url: http, https or file.
        partial: where the bytes go; `NAME.json` beside it tells the version of the file.
        patience: how long to try.
        progress: show a bar on stderr, if that is a terminal.

    Raises:
        ValueError: for an address of another kind.
        FileNotFoundError: if there is no such file.
        ConnectionError: if the server refuses, or cuts or stays silent too often; what came is kept.
        OSError: if the bytes cannot be written, such as on a full disk.
    """
    scheme = urlparse(url).scheme
    if scheme not in ("http", "https", "file"):
        raise ValueError(f"cannot download {url}: the address must begin with http://, https:// or file://")
    try:
        if scheme == "file":
            _copy_local(url, partial, progress)
        else:
            _persist(url, partial, patience or Patience(), progress)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            f"the disk of {partial.parent} is full after {_size(partial)} bytes of {url}; free some space, "
            "then the same command goes on"
        ) from error


def discard(partial: Path) -> None:
    """Remove what `fetch` left."""
    partial.unlink(missing_ok=True)
    _note(partial).unlink(missing_ok=True)


def _persist(url: str, partial: Path, patience: Patience, progress: bool) -> None:
    """Try until the file is there, or too many attempts in a row bring nothing new."""
    furthest, failures = 0, 0
    while True:
        try:
            return _attempt(url, partial, patience.timeout, progress)
        except _Interrupted as error:
            reached = _size(partial)
            failures = 1 if reached > furthest else failures + 1
            furthest = max(furthest, reached)
            if failures >= patience.attempts:
                raise ConnectionError(
                    f"{url}: {error}, {failures} times in a row; {reached} bytes are kept, "
                    "the same command goes on from there"
                ) from error
            time.sleep(min(60.0, patience.pause * 2 ** (failures - 1)))


def _attempt(url: str, partial: Path, timeout: float, progress: bool) -> None:
    """One request: the whole file, or what is missing of the version that was begun."""
    kept = _Version.load(_note(partial), url)
    offset = _size(partial)
    if kept and offset and offset == kept.size:
        return
    headers = {"User-Agent": "bioaudio"}
    if kept and kept.condition and offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": kept.condition}
    with _opened(Request(url, headers=headers), partial, timeout) as response:
        version, begin = _described(url, response)
        if begin:
            if kept is None or begin != offset or not kept.may_be(version):
                discard(partial)
                raise _Interrupted("the file changed on the server")
            version = kept
        with partial.open("ab" if begin else "wb") as file:
            _note(partial).write_text(json.dumps(asdict(version)), encoding="utf-8")
            _copy(_received(response), file, begin, version.size, progress)
    if version.size is not None and _size(partial) != version.size:
        raise _Interrupted(f"cut off after {_size(partial)} of {version.size} bytes")


@contextmanager
def _opened(request: Request, partial: Path, timeout: float) -> Iterator[HTTPResponse]:
    """The server's answer, if it is one with content; every other outcome is an error, passing or final."""
    url = request.full_url
    try:
        response = urlopen(request, timeout=timeout)
    except HTTPError as error:
        error.close()
        answer = f"the server answers {error.code} {error.reason}"
        if error.code in (404, 410):
            raise FileNotFoundError(f"{url} does not exist: {answer}") from error
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            discard(partial)
        elif error.code not in _PASSING:
            raise ConnectionError(f"{url}: {answer}") from error
        raise _Interrupted(answer) from error
    except URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise ConnectionError(f"{url}: {error.reason}") from error
        raise _Interrupted(str(error.reason)) from error
    except (OSError, HTTPException) as error:
        raise _Interrupted(str(error) or type(error).__name__) from error
    with response:
        yield response


def _described(url: str, response: HTTPResponse) -> tuple[_Version, int]:
    """The version of the file that an answer is from, and the byte it begins with."""
    begin, size = 0, response.headers.get("Content-Length")
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None:
            raise ConnectionError(f"{url}: the server answers a part of the file without saying which")
        begin, size = int(match[1]), None if match[2] == "*" else match[2]
    tags = response.headers.get("ETag"), response.headers.get("Last-Modified")
    return _Version(url, *tags, size=None if size is None else int(size)), begin


def _received(response: HTTPResponse) -> Iterator[bytes]:
    """Blocks of an answer's content; a failing connection is told from a failing disk here."""
    while True:
        try:
            block = response.read1(BLOCK)
        except (OSError, HTTPException) as error:
            raise _Interrupted(str(error) or type(error).__name__) from error
        if not block:
            return
        yield block


def _copy_local(url: str, partial: Path, progress: bool) -> None:
    source = Path(url2pathname(urlparse(url).path))
    if not source.is_file():
        raise FileNotFoundError(f"{source} does not exist, or is no file")
    with source.open("rb") as content, partial.open("wb") as file:
        _copy(iter(lambda: content.read(BLOCK), b""), file, 0, source.stat().st_size, progress)


def _copy(blocks: Iterator[bytes], file: BinaryIO, begin: int, size: int | None, progress: bool) -> None:
    name = Path(file.name).name.removesuffix(".partial")
    hidden = None if progress else True  # None shows the bar on a terminal only
    with tqdm(desc=name, total=size, initial=begin, unit="B", unit_scale=True, disable=hidden) as bar:
        for block in blocks:
            file.write(block)
            bar.update(len(block))


def _note(partial: Path) -> Path:
    return partial.with_name(partial.name + ".json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
