"""Any number of workers read correct DNA, and a killed conversion leaves nothing that opens."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from bioaudio_data.atomic_folder import atomic_folder
from bioaudio_data.genome import GenomeStore, convert_genome
from bioaudio_data.samples import great_apes_chr22
from data.naive_genome import digest_of_windows, fasta_text, write

N_WINDOWS = 10_000
CONVERT = """
import sys
from pathlib import Path
from bioaudio_data.genome import convert_genome
convert_genome([Path(sys.argv[1])], Path(sys.argv[2]), overwrite=True, progress=False)
"""


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize(("method", "n_workers"), [("fork", 16), ("spawn", 3)])
def test_workers_read_correct_dna(tmp_path: Path, method: Literal["fork", "spawn"], n_workers: int) -> None:
    store = convert_genome(list(great_apes_chr22().values()), tmp_path / "apes", progress=False)
    rng = np.random.default_rng(0)
    names, starts = rng.choice(list(store.contigs), N_WINDOWS), rng.integers(0, 250_000 - 1024, N_WINDOWS)
    windows = [(str(name), int(start), int(start) + 1024) for name, start in zip(names, starts, strict=True)]
    shares = [windows[i::n_workers] for i in range(n_workers)]
    with multiprocessing.get_context(method).Pool(n_workers) as pool:
        answers = pool.starmap_async(digest_of_windows, [(store, share) for share in shares], chunksize=1)
        ours = [digest_of_windows(store, share) for share in shares]
        assert answers.get(timeout=60) == ours
    assert ours == [digest_of_windows(GenomeStore.open(store.path), share) for share in shares]


@pytest.mark.parametrize("written", [0, 8 << 20])
def test_killed_conversion_leaves_nothing_that_opens(tmp_path: Path, written: int) -> None:
    source = write(tmp_path / "big.fa", fasta_text({"z": "ACGTacgtNN" * 2_000_000}, width=60_000))
    out = tmp_path / "store"
    _kill_when_written(source, out, written)
    assert not out.exists()
    assert len(_partials(tmp_path)) == 1
    small = write(tmp_path / "small.fa", fasta_text({"z": "ACGT"}))
    old = convert_genome([small], out, progress=False)
    assert not _partials(tmp_path)
    _kill_when_written(source, out, written)
    old.verify()
    assert GenomeStore.open(out).contigs == {"z": 4}


def test_conversion_leaves_the_work_of_a_living_one_alone(tmp_path: Path) -> None:
    small = write(tmp_path / "small.fa", fasta_text({"z": "ACGT"}))
    out = tmp_path / "store"

    def two_at_once() -> None:
        with atomic_folder(out) as partial:
            convert_genome([small], out, progress=False)
            (partial / "mine").touch()

    with pytest.raises(FileExistsError, match="another process"):
        two_at_once()
    GenomeStore.open(out).verify()
    assert not _partials(tmp_path)


def _partials(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".store.partial-")]


def _kill_when_written(source: Path, out: Path, size: int) -> None:
    """Kill a conversion once its hidden folder holds `size` bytes of bases."""
    process = subprocess.Popen([sys.executable, "-c", CONVERT, source, out])
    while not any(
        file.stat().st_size >= size for folder in _partials(out.parent) for file in folder.iterdir()
    ):
        assert process.poll() is None, "the conversion ended before it was killed"
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
