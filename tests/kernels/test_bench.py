"""`bioaudio bench` runs, agrees with its peers, and writes what it shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bioaudio_recipes.bench.timing import Contender, race, table
from bioaudio_recipes.cli import main, run

TINY = ["--length", "32", "--d_model", "16", "--d_state", "4", "--rounds", "2", "--threads", "2"]


@pytest.mark.parametrize("what", ["scan", "conv", "step"])
def test_bench_shows_ours_beside_its_peers(what: str, tmp_path: Path) -> None:
    text = run("bench", [what, *TINY, "--out", str(tmp_path)])
    assert text is not None
    assert "ours faster" in text
    record = json.loads((tmp_path / f"bench-{what}.json").read_text())
    for timings in record["results"].values():
        assert timings[0]["name"] == "ours"
        assert len(timings) > 1
        assert all(timing["forward_ms"] > 0 for timing in timings)


def test_bench_scan_shows_both_ratios_of_mambapy() -> None:
    pytest.importorskip("mambapy")
    text = run("bench", ["scan", *TINY])
    assert text is not None
    scan, block = text.split("Mamba block")
    assert "mambapy (pscan)" in scan
    assert "mambapy" in block


def test_a_contender_with_another_result_is_refused() -> None:
    ours = Contender(name="ours", run=lambda: torch.ones(3))
    wrong = Contender(name="wrong", run=lambda: torch.full((3,), 1.1))
    with pytest.raises(ValueError, match="wrong gives another result"):
        race([ours, wrong], rounds=1, seconds=1, label="test")


def test_a_slow_contender_leaves_the_race_after_one_round() -> None:
    contenders = [Contender(name=name, run=lambda: torch.ones(3)) for name in ("ours", "peer")]
    timings = race(contenders, rounds=5, seconds=0, label="test")
    assert [timing.rounds for timing in timings] == [1, 1]
    assert "backward" in table("title", timings)


@pytest.mark.parametrize(("flag", "complaint"), [("--batch", "--batch is 0"), ("--rounds", "--rounds is 0")])
def test_a_size_of_zero_ends_in_one_line(
    flag: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["bench", "conv", *TINY, flag, "0"])
    assert exit_.value.code == 2
    assert complaint in capsys.readouterr().err
