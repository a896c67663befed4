"""`bioaudio verify`: is a store what was written?"""

from __future__ import annotations

from pathlib import Path

from bioaudio_data.genome import GenomeStore
from bioaudio_data.store_folder import store_format


def verify(store: Path) -> str:
    """Check every byte of a genome or waveform store against the hash in its index.

    Args:
        store: Folder of the store.
    """
    if store_format(store) == "bioaudio-audio":
        from bioaudio_data.audio import WaveformStore

        audio = WaveformStore.open(store)
        audio.verify(progress=True)
        return f"{audio.path}: {audio.index.samples:,} samples match their SHA-256 {audio.index.sha256}"
    genome = GenomeStore.open(store)
    genome.verify(progress=True)
    return f"{genome.path}: {genome.index.size:,} bases match their SHA-256 {genome.index.sha256}"
