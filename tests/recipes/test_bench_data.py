"""The loader bench times each length with and without workers, beside what training needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from bioaudio_recipes.bench import data
from bioaudio_recipes.cli import run


def test_bench_times_each_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small.fa").write_text(">small\n" + "ACGT" * 300 + "\n")
    monkeypatch.setattr(data, "WORKERS", (0, 2))
    flags = ["--fasta", str(tmp_path / "small.fa"), "--lengths", "64,256", "--tokens", "512"]
    table = run("bench", ["data", *flags, "--seconds", "0.01", "--need", "1000000000000"])
    assert table is not None
    _, head, *rows = table.splitlines()
    assert head.split() == ["window", "0", "workers", "need", "2", "workers", "need"]
    assert [row.split()[0] for row in rows] == ["64", "256"]
    assert all(row.endswith("too slow") for row in rows)


def test_flags_of_other_benches_are_refused() -> None:
    with pytest.raises(ValueError, match="--need is for bench data, not for bench genome"):
        run("bench", ["genome", "--need", "1"])
