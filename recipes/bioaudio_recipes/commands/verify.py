"""`bioaudio verify`: is a store what was written?"""

from __future__ import annotations

from pathlib import Path

from bioaudio_data.genome import GenomeStore


def verify(store: Path) -> str:
    """Check every byte of a genome store against the hash in its index.

    Args:
        store: Folder of the store.
    """
    genome = GenomeStore.open(store)
    genome.verify(progress=True)
    return f"{genome.path}: {genome.index.size:,} bases match their SHA-256 {genome.index.sha256}"
