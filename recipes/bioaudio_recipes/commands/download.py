"""`bioaudio download`: published genomes, interval files and speech, or any file by its address."""

from __future__ import annotations

from pathlib import Path

from bioaudio_data.archive import SUFFIXES, unpack
from bioaudio_data.download import digest
from bioaudio_data.download import download as fetch_files


def download(
    name: str,
    *,
    out: Path,
    mirror: str | None = None,
    md5: str | None = None,
    sha256: str | None = None,
    unpack_archives: bool = False,
) -> str:
    """Fetch a published genome, interval file or set of speech: resumable, checksummed, atomic.

    Args:
        name: hg38, panTro6, panPan3, gorGor6 or ponAbe3 (or human, chimpanzee, bonobo, gorilla, orangutan;
            great-apes for all five), enformer-intervals, speech_commands, a URL (http, https, file), or the
            path of a file.
        out: Folder to put the files in.
        mirror: URL or folder to fetch from instead of the published server; a file is looked for there under
            the path it has on that server, then directly.
        md5: Checksum that a URL's or path's file must have.
        sha256: Checksum that a URL's or path's file must have.
        unpack_archives: Unpack tar and zip archives beside themselves, into a folder of their name.
    """
    lines = []
    for path in fetch_files(name, out, mirror=mirror, md5=md5, sha256=sha256):
        lines.append(f"{path}: {path.stat().st_size:,} bytes, SHA-256 {digest(path, 'sha256')}")
        suffix = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), None)
        if unpack_archives and suffix is not None:
            lines.append(f"{unpack(path, path.with_name(path.name.removesuffix(suffix)))}: unpacked")
    return "\n".join(lines)
