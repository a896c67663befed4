"""Whether an audio file was cut short: libsndfile reads what is left of one without a word."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO

_UNKNOWN_SIZES = (0, 0xFFFFFFFF)
"""Sizes that programs write which stream to a pipe."""
_OGG_TAIL = 1 << 17
_OGG_HEADER_BYTES = 27
_OGG_END = 0x04


def check_whole(path: Path) -> None:
    """Look at the sizes that a WAV file names, or at the last page of an Ogg file; other kinds tell when
    decoded.

    Raises:
        ValueError: if the end of the file is missing.
    """
    with path.open("rb") as file:
        head = file.read(12)
        if not head:
            raise ValueError(f"{path} is empty")
        if head[:4] == b"RIFF" and head[8:] == b"WAVE":
            _check_wav(file, path)
        elif head[:4] == b"OggS":
            _check_ogg(file, path)


def _check_wav(file: IO[bytes], path: Path) -> None:
    """Walk over the chunks: the one called `data` must lie within the file."""
    size = path.stat().st_size
    while len(header := file.read(8)) == 8:
        name, length = struct.unpack("<4sI", header)
        if name == b"data":
            missing = file.tell() + length - size
            if length not in _UNKNOWN_SIZES and missing > 0:
                raise ValueError(f"{path} is cut short: {missing:,} of {length:,} bytes of sound are missing")
            return
        file.seek(length + length % 2, 1)
    raise ValueError(f"{path} is cut short: it ends before its sound begins")


def _check_ogg(file: IO[bytes], path: Path) -> None:
    """The last page must say that it is the last, and have all its bytes."""
    file.seek(-min(_OGG_TAIL, path.stat().st_size), 2)
    tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) >= _OGG_HEADER_BYTES and page[5] & _OGG_END:
        lacing = page[_OGG_HEADER_BYTES : _OGG_HEADER_BYTES + page[26]]
        if len(page) >= _OGG_HEADER_BYTES + page[26] + sum(lacing):
            return
    raise ValueError(f"{path} is cut short: its last Ogg page is missing")
