"""Reading a genome store: any window of any contig, straight from a memory map."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bioaudio_data.genome.index import BASES_FILE, GenomeIndex
from bioaudio_data.store_folder import map_bytes, verify_bytes
from bioaudio_data.vocabulary import SOFT_MASK_BIT, TOKEN_BITS

REMAKE = "bioaudio prepare-genome"
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
        self._bases = map_bytes(path / BASES_FILE, index.size, REMAKE)

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
        path = self.path / BASES_FILE
        verify_bytes(self._bases, self.index.sha256, path, REMAKE, progress=progress)

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
