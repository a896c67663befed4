"""Reading a genome store: any window of any contig, straight from a memory map."""

from __future__ import annotations

import hashlib
import mmap
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bioaudio_data.genome.index import BASES_FILE, GenomeIndex
from bioaudio_data.vocabulary import SOFT_MASK_BIT, TOKEN_BITS

VERIFY_BYTES = 1 << 22
# Arrays without dimensions: numpy takes twice as long over a window of 1 kb when these are plain integers.
_MASK_BIT = np.array(SOFT_MASK_BIT, np.uint8)
_TOKEN_BITS = np.array(TOKEN_BITS, np.uint8)


class GenomeStore:
    """A genome on disk as one byte a base, memory-mapped read-only.

    There is no file position and no cache, so any number of threads and forked workers can read one store at
    once. Pickling keeps only the path: a spawned worker maps the file for itself. Coordinates are 0-based,
    half-open.
    """

    def __init__(self, path: Path, index: GenomeIndex) -> None:
        """Map the bases that `index` describes; `GenomeStore.open` is the way in."""
        self.path = path
        self.index = index
        self.contigs: dict[str, int] = {contig.name: contig.length for contig in index.contigs}
        self._offsets = {contig.name: contig.offset for contig in index.contigs}
        self._bases = _map(path / BASES_FILE, index.size)

    @classmethod
    def open(cls, path: Path | str) -> GenomeStore:
        """Open a store's folder; checks format and sizes, not the hash (see `verify`).

        Raises:
            FileNotFoundError: if there is no store at `path`.
            ValueError: if it is damaged, or of another format version or vocabulary.
        """
        folder = Path(path).resolve()
        return cls(folder, GenomeIndex.read(folder))

    @property
    def name(self) -> str:
        """Name of the store's folder."""
        return self.path.name

    def tokens(self, contig: str, start: int, end: int) -> np.ndarray:
        """Token ids (A 7, C 8, G 9, T 10, N 11) of `[start, end)`: uint8 (end - start,), a copy.

        Raises:
            ValueError: if there is no such contig, or the window is not within it.
        """
        return self.packed(contig, start, end) & _TOKEN_BITS

    def soft_mask(self, contig: str, start: int, end: int) -> np.ndarray:
        """Whether each base of `[start, end)` is soft-masked (a repeat): bool (end - start,)."""
        return self.packed(contig, start, end) >= _MASK_BIT

    def read(self, contig: str, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """`tokens` and `soft_mask` of one window, from a single look at the file."""
        window = self.packed(contig, start, end)
        return window & _TOKEN_BITS, window >= _MASK_BIT

    def packed(self, contig: str, start: int, end: int) -> np.ndarray:
        """Bytes of `[start, end)` as stored, token id | `SOFT_MASK_BIT` in repeats: uint8, a read-only view.

        Raises:
            ValueError: if there is no such contig, or the window is not within it.
        """
        length = self.contigs.get(contig)
        if length is None:
            known = ", ".join(list(self.contigs)[:5]) + (", ..." if len(self.contigs) > 5 else "")
            raise ValueError(f"genome store {self.path} has no contig {contig!r}; it has {known}")
        if not 0 <= start <= end <= length:
            raise ValueError(
                f"{contig}:{start}-{end} is not within contig {contig} of genome store {self.path}, "
                f"which spans 0-{length} (0-based, half-open)"
            )
        offset = self._offsets[contig]
        return self._bases[offset + start : offset + end]

    def verify(self, *, progress: bool = False) -> None:
        """Compare every byte with the hash in the index.

        Raises:
            ValueError: naming the file, if they differ.
        """
        digest = hashlib.sha256()
        size, quiet = self.index.size, None if progress else True  # None: only on a terminal
        with tqdm(total=size, unit="B", unit_scale=True, desc=self.name, leave=False, disable=quiet) as bar:
            for start in range(0, size, VERIFY_BYTES):
                part = self._bases[start : start + VERIFY_BYTES]
                digest.update(part.data)
                bar.update(part.size)
        if digest.hexdigest() != self.index.sha256:
            raise ValueError(
                f"{self.path / BASES_FILE} is damaged: its SHA-256 is {digest.hexdigest()}, the index says "
                f"{self.index.sha256}; make the store again with `bioaudio prepare-genome --overwrite`"
            )

    def __repr__(self) -> str:
        """The path and what is in it."""
        return f"GenomeStore({str(self.path)!r}: {len(self.contigs)} contigs, {self.index.size:,} bases)"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle as a path, with the hash of what was opened."""
        return _reopen, (self.path, self.index.sha256)


def _reopen(path: Path, sha256: str) -> GenomeStore:
    store = GenomeStore.open(path)
    if store.index.sha256 != sha256:
        raise ValueError(f"genome store {path} was overwritten while a job was using it; start the job again")
    return store


def _map(path: Path, size: int) -> np.ndarray:
    """Memory-map a file of exactly `size` bytes as read-only uint8 (size,)."""
    if not path.is_file():
        raise ValueError(
            f"{path} is missing; make the store again with `bioaudio prepare-genome --overwrite`"
        )
    with path.open("rb") as file:
        actual = file.seek(0, 2)
        if actual != size or not size:
            raise ValueError(
                f"{path} has {actual:,} bytes where its index says {size:,}; "
                "make the store again with `bioaudio prepare-genome --overwrite`"
            )
        return np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), np.uint8)
