"""Data that needs no download: real DNA that ships with the package, and synthetic speech that it makes."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

APES = ("human", "chimpanzee", "gorilla", "orangutan")


def great_apes_chr22() -> dict[str, Path]:
    """FASTA files by species: 250 kb of each, homologous, soft-masked; PROVENANCE.md is beside them."""
    folder = Path(str(files(__name__))) / "great_apes_chr22"
    return {ape: folder / f"{ape}.fa.gz" for ape in APES}
