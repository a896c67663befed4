"""`index.json` of a genome store: what `bases.u8` beside it holds, and where it came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bioaudio_data.store_folder import INDEX_FILE
from bioaudio_data.vocabulary import DNA

FORMAT = "bioaudio-genome"
FORMAT_VERSION = 1
BASES_FILE = "bases.u8"


@dataclass(frozen=True)
class Contig:
    """One contig's place in `bases.u8`: bytes `offset` to `offset + length`, one a base."""

    name: str
    length: int
    offset: int


@dataclass(frozen=True)
class Source:
    """A file that was converted: its name without folders, and the SHA-256 of its bytes on disk."""

    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class GenomeIndex:
    """Content of `index.json`."""

    contigs: tuple[Contig, ...]
    """In the order of the files; contig i + 1 begins where contig i ends."""
    sources: tuple[Source, ...]
    """In the order given."""
    sha256: str
    """Of `bases.u8`."""
    composition: Mapping[str, int]
    """Bases by letter (A, C, G, T, N), and how many are `soft_masked`, or were `ambiguous` and became N."""

    @property
    def size(self) -> int:
        """Bytes of `bases.u8`."""
        return sum(contig.length for contig in self.contigs)

    def write(self, folder: Path) -> None:
        """Write `index.json` into a folder that nobody reads yet."""
        content = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "vocabulary": {"name": DNA.name, "fingerprint": DNA.fingerprint()},
            **asdict(self),
        }
        (folder / INDEX_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> GenomeIndex:
        """Read and check `index.json`.

        Raises:
            FileNotFoundError: if the folder or the file is missing.
            ValueError: if the file is not an index of this format version and vocabulary.
        """
        path = folder / INDEX_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} is no genome store: no {INDEX_FILE} in it; make one with `bioaudio prepare-genome`"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            _check_format(path, content)
            return cls(
                contigs=_contigs(content["contigs"]),
                sources=tuple(Source(**source) for source in content["sources"]),
                sha256=content["sha256"],
                composition=content["composition"],
            )
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}); make the store again") from error


def _contigs(rows: list[dict[str, Any]]) -> tuple[Contig, ...]:
    contigs = tuple(Contig(**row) for row in rows)
    end = 0
    for contig in contigs:
        if contig.offset != end or contig.length < 1:
            raise TypeError(f"contig {contig.name} does not begin where the one before it ends")
        end += contig.length
    return contigs


def _check_format(path: Path, content: Any) -> None:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(
            f"{path} is not the index of a genome store; make one with `bioaudio prepare-genome`"
        )
    if content["version"] != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {content['version']}; this release reads version {FORMAT_VERSION}: "
            "make the store again with `bioaudio prepare-genome --overwrite`"
        )
    vocabulary = content["vocabulary"]
    if vocabulary["fingerprint"] != DNA.fingerprint():
        raise ValueError(
            f"{path} was written with the vocabulary {vocabulary['name']} ({vocabulary['fingerprint']}); "
            f"this release has {DNA.name} ({DNA.fingerprint()}): make the store again"
        )
