"""Published files that `bioaudio download` knows by name: where they lie, and how each is known to be whole.

The addresses are those that UCSC and the authors of HyenaDNA and of Speech Commands publish; they were not
tried when this was written. Genomes are compared with the MD5 that UCSC gives beside them. The interval file
has no published checksum: the rows of its splits are compared with the paper's counts. Speech Commands is
known by the SHA-256 that torchaudio and TensorFlow's data sets give.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlparse

UCSC = "https://hgdownload.soe.ucsc.edu/goldenPath"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file to fetch, and what its content must agree with."""

    url: str
    """Address: http, https or file."""
    md5: str | None = None
    """MD5 of the file, hexadecimal."""
    sha256: str | None = None
    """SHA-256 of the file, hexadecimal."""
    md5_list: str | None = None
    """Address of a list as `md5sum` writes it, with a line for this file."""
    split_rows: Mapping[str, int] | None = None
    """Of a BED file with a split column: rows of each split."""

    @property
    def filename(self) -> str:
        """The file's own name, without folders.

        Raises:
            ValueError: for an address that ends in no file name.
        """
        name = PurePosixPath(unquote(urlparse(self.url).path)).name
        if not name:
            raise ValueError(f"the address {self.url} names no file")
        return name


def _ucsc(assembly: str) -> Source:
    folder = f"{UCSC}/{assembly}/bigZips"
    return Source(url=f"{folder}/{assembly}.fa.gz", md5_list=f"{folder}/md5sum.txt")


SOURCES: dict[str, Source] = {
    "hg38": _ucsc("hg38"),
    "panTro6": _ucsc("panTro6"),
    "panPan3": _ucsc("panPan3"),
    "gorGor6": _ucsc("gorGor6"),
    "ponAbe3": _ucsc("ponAbe3"),
    "enformer-intervals": Source(
        url="https://storage.googleapis.com/basenji_barnyard2/sequences_human.bed",
        split_rows={"train": 34_021, "valid": 2_213, "test": 1_937},
    ),
    "speech_commands": Source(
        url="https://storage.googleapis.com/download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
        sha256="af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
    ),
}
"""Files by name; the genomes are soft-masked FASTA, the sound is a tar archive of wav files."""

GROUPS: dict[str, tuple[str, ...]] = {
    "human": ("hg38",),
    "chimpanzee": ("panTro6",),
    "bonobo": ("panPan3",),
    "gorilla": ("gorGor6",),
    "orangutan": ("ponAbe3",),
    "great-apes": ("hg38", "panTro6", "panPan3", "gorGor6", "ponAbe3"),
}
"""Names of species, and of sets of files."""


def find_sources(name: str) -> list[Source]:
    """The files that a name of `SOURCES` or `GROUPS` stands for.

    Raises:
        ValueError: for a name that is in neither.
    """
    members = GROUPS.get(name, (name,))
    if members[0] not in SOURCES:
        raise ValueError(
            f"unknown download {name!r}: choose one of {', '.join([*SOURCES, *GROUPS])}, "
            "or give a URL or the path of a file"
        )
    return [SOURCES[member] for member in members]
