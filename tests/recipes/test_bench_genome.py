"""The genome bench times what agrees, and says when a genome is too short for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from bioaudio_recipes.bench import genome


def test_bench_times_each_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(genome, "ROUNDS", 1)
    monkeypatch.setattr(genome, "MOST_WINDOWS", 16)
    rows = genome.bench_genome().splitlines()[2:]
    assert [row.split()[0] for row in rows] == ["1,024", "131,072", "1,048,576"]


def test_bench_refuses_a_genome_without_room_for_its_windows(tmp_path: Path) -> None:
    fasta = tmp_path / "short.fa"
    fasta.write_text(">z\nACRT\n")
    with pytest.raises(ValueError, match="no contig has 1,024 bases"):
        genome.bench_genome(fasta)
