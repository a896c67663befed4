"""Open the genome of each class, converting FASTA where needed, and divide all of them into splits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bioaudio_data.genome import GenomeStore, convert_genome
from bioaudio_data.interval import Interval
from bioaudio_data.splits import split_by_contig, split_by_fraction
from bioaudio_data.store_folder import INDEX_FILE

GENOME_SUFFIXES = (".fa", ".fasta", ".fna", ".2bit", ".fa.gz", ".fasta.gz", ".fna.gz", ".fa.bgz", ".fna.bgz")


@dataclass(frozen=True, kw_only=True)
class GenomeSplits:
    """Which bases of every genome are trained on, validated on and tested on."""

    train: tuple[float, float] = (0.0, 0.8)
    """Part of every contig to train on, as fractions of its length."""
    valid: tuple[float, float] = (0.8, 0.9)
    """Part of every contig to validate on."""
    test: tuple[float, float] = (0.9, 1.0)
    """Part of every contig to test on."""
    guard: int | None = None
    """Bases left out at each border, since aligned genomes drift apart; 100,000 unless given."""
    valid_contigs: list[str] = field(default_factory=list)
    """Whole contigs to validate on. With test_contigs they replace the fractions; the rest is trained on."""
    test_contigs: list[str] = field(default_factory=list)
    """Whole contigs to test on; a genome takes those of the names that it has."""
    contigs: str | None = None
    """Regular expression that the whole name of a contig must match to be used, as 'chr([0-9]+|X|Y)[AB]?'."""

    def __post_init__(self) -> None:
        if bool(self.valid_contigs) != bool(self.test_contigs):
            raise ValueError("--splits.valid_contigs and --splits.test_contigs go together; one is missing")
        try:
            re.compile(self.contigs or "")
        except re.error as error:
            raise ValueError(
                f"--splits.contigs {self.contigs!r} is not a regular expression: {error}"
            ) from error

    def divide(self, stores: Mapping[str, GenomeStore]) -> dict[str, dict[str, list[Interval]]]:
        """Segments of each class by split: `result["train"]["human"]`.

        Raises:
            ValueError: naming the class and contig, where a genome cannot be divided so.
        """
        self._check_names(stores)
        result: dict[str, dict[str, list[Interval]]] = {"train": {}, "valid": {}, "test": {}}
        for name, store in stores.items():
            try:
                for split, segments in self._divide_one(store).items():
                    result[split][name] = segments
            except ValueError as error:
                raise ValueError(f"class {name!r}: {error}") from error
        return result

    def _divide_one(self, store: GenomeStore) -> dict[str, list[Interval]]:
        used = {
            c: n for c, n in store.contigs.items() if self.contigs is None or re.fullmatch(self.contigs, c)
        }
        if not used:
            raise ValueError(f"no contig of {store.path} matches --splits.contigs {self.contigs!r}")
        if not self.test_contigs:
            fractions = {"train": self.train, "valid": self.valid, "test": self.test}
            return split_by_fraction(used, guard=self.guard, **fractions)
        valid = [contig for contig in self.valid_contigs if contig in used]
        test = [contig for contig in self.test_contigs if contig in used]
        return split_by_contig(used, rest="train", valid=valid, test=test)

    def _check_names(self, stores: Mapping[str, GenomeStore]) -> None:
        everywhere = {contig for store in stores.values() for contig in store.contigs}
        for flag, names in (("valid_contigs", self.valid_contigs), ("test_contigs", self.test_contigs)):
            for contig in names:
                if contig not in everywhere:
                    raise ValueError(f"--splits.{flag}: no genome has a contig {contig!r}")


def open_genomes(classes: Mapping[str, Path], converted: Path) -> dict[str, GenomeStore]:
    """The genome store of each class.

    Args:
        classes: name of each class and its genome: a store, a FASTA or .2bit file, or a folder of such files.
        converted: folder in which stores made of files are kept, and found again by the next run.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: for fewer than two classes, or a path that is no genome.
    """
    if len(classes) < 2:
        given = ", ".join(classes)
        raise ValueError(
            f"a classifier needs at least two classes, got {given}; give --classes.NAME for each"
        )
    files = {name: _genome_files(name, Path(path)) for name, path in classes.items()}
    return {
        name: _converted(name, files[name], converted) if files[name] else GenomeStore.open(path)
        for name, path in classes.items()
    }


def _genome_files(name: str, path: Path) -> list[Path]:
    """The files to convert; none where `path` is a store already."""
    if not path.exists():
        raise FileNotFoundError(f"--classes.{name}: {path} does not exist")
    if path.is_file():
        return [path]
    if (path / INDEX_FILE).is_file():
        return []
    files = sorted(file for file in path.iterdir() if file.name.lower().endswith(GENOME_SUFFIXES))
    if not files:
        raise ValueError(
            f"--classes.{name}: {path} is neither a genome store nor a folder of FASTA or .2bit files"
        )
    return files


def _converted(name: str, files: list[Path], folder: Path) -> GenomeStore:
    """The store of these files as they are now, made unless it is there; case says nothing here."""
    states = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(repr(states).encode()).hexdigest()[:12]
    out = folder / f"{re.sub(r'[^A-Za-z0-9_-]+', '_', name)}-{key}"
    if (out / INDEX_FILE).is_file():
        return GenomeStore.open(out)
    return convert_genome(files, out, ambiguous="n", soft_mask="drop")
