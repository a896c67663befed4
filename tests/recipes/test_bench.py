"""`bioaudio bench` runs what agrees with ours, shows why the rest did not run, and writes what it shows."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from bioaudio_recipes.bench.clock import wall_milliseconds
from bioaudio_recipes.bench.contender import Contender, Job
from bioaudio_recipes.bench.plan import RACES
from bioaudio_recipes.bench.plot import memory_plot
from bioaudio_recipes.bench.race import Heat, Result, race
from bioaudio_recipes.bench.roofline import Device, Work
from bioaudio_recipes.bench.shape import Shape
from bioaudio_recipes.bench.tables import heat_table, judged_table
from bioaudio_recipes.cli import main, run
from torch import Tensor

TINY = ["--d-model", "16", "--d-state", "4", "--rounds", "2", "--threads", "2"]
SIZES = {
    "scan": ["--lengths", "8,32"],
    "conv": ["--lengths", "8,32"],
    "block": ["--lengths", "8,32"],
    "step": ["--batch", "2"],
    "lm": ["--lengths", "8,32", "--tokens", "64", "--n-layer", "1"],
    "decode": ["--batch", "1,2", "--n-layer", "1"],
}
SHAPE = Shape(length=8)


def ones() -> Tensor:
    return torch.ones(3)


def job(result: Tensor) -> Job:
    return Job(passes={"forward": ones}, results=lambda: [result])


def contender(name: str, result: Tensor | None = None) -> Contender:
    return Contender(name=name, prepare=lambda _: job(ones() if result is None else result))


def raced(*contenders: Contender, seconds: float = 1.0) -> list[Result]:
    return race(contenders, SHAPE, wall_milliseconds, rounds=3, seconds=seconds, label="test").results


@pytest.mark.parametrize("what", list(RACES))
def test_bench_shows_ours_beside_its_peers_and_writes_all_figures(what: str, tmp_path: Path) -> None:
    text = run("bench", [what, *SIZES[what], *TINY, "--out", str(tmp_path)])
    assert text is not None
    assert "ratio" in text
    record = json.loads((tmp_path / f"bench-{what}.json").read_text())
    assert {"command", "date", "environment", "versions", "settings", "where", "device"} <= record.keys()
    assert record["settings"]["seed"] == 0
    for one in record["races"]:
        for heat in one["heats"]:
            ours, *peers = heat["results"]
            assert ours["name"] == "ours"
            assert ours["reason"] is None
            assert any(peer["milliseconds"] for peer in peers), "nobody else could run"
            for result in heat["results"]:
                assert result["reason"] or all(spent > 0 for spent in result["milliseconds"].values())
                assert (
                    result["reason"]
                    or not result["is_same"]
                    or result["difference"] is None
                    or (result["difference"] < 1e-3)
                )
                assert (result["reason"] or result["name"]) in text
    plots = sorted(path.name for path in tmp_path.glob("*.svg"))
    assert len(plots) == {"scan": 4, "conv": 2, "block": 2, "step": 0, "lm": 1, "decode": 1}[what]


def test_bench_scan_shows_both_ratios_of_mambapy() -> None:
    pytest.importorskip("mambapy")
    text = run("bench", ["scan", "--lengths", "32", "--peers", "mambapy", *TINY])
    assert text is not None
    scan, block = text.split("Mamba block")
    assert re.search(r"mambapy \(pscan\) +[\d.]+ +[\d.]+x", scan)
    assert re.search(r"mambapy +[\d.]+ +[\d.]+x", block)
    assert "transformers" not in text


def test_the_judged_shapes_are_those_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bioaudio_recipes.bench.plan.TABLE", ((1, 16, 32), (2, 8, 16)))
    text = run("bench", ["scan", "--shapes", "table", "--rounds", "1"])
    assert text is not None
    *_, head, first, second = text.splitlines()
    assert head.split()[:3] == ["batch,", "channels,", "length"]
    assert first.split()[:3] == ["1,", "16,", "32"]
    assert second.split()[:3] == ["2,", "8,", "16"]
    assert "Mamba block" not in text


def test_a_contender_with_another_result_is_not_timed() -> None:
    ours, near, wrong, broken = raced(
        contender("ours"),
        contender("near", torch.full((3,), 1.0001)),
        contender("wrong", torch.full((3,), 1.1)),
        contender("broken", torch.full((3,), torch.nan)),
    )
    assert ours.reason is None
    assert near.difference == pytest.approx(1e-4, rel=0.01)
    assert len(near.milliseconds) == 1
    assert (wrong.reason, wrong.milliseconds) == ("differs from ours by 1.0e-01, 0.001 is allowed", {})
    assert broken.reason == "differs from ours by inf, 0.001 is allowed"


def test_one_that_fails_shows_why_and_the_race_goes_on() -> None:
    def fail(_: Shape) -> Job:
        raise RuntimeError("no\nkernel for " + "this " * 50)

    def exhaust() -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 64.00 GiB.")

    results = raced(
        contender("ours"),
        Contender(name="fails", prepare=fail),
        Contender(name="large", prepare=lambda _: Job(passes={"forward": exhaust}, results=lambda: [ones()])),
        Contender(name="absent", prepare=fail, package="no_such_package"),
        Contender(name="elsewhere", prepare=fail, cuda_only=True),
        contender("last"),
    )
    reasons = [result.reason for result in results]
    assert reasons[0] is reasons[-1] is None
    assert reasons[1] is not None
    assert reasons[1].startswith("RuntimeError: no kernel for this")
    assert len(reasons[1]) <= 110
    assert reasons[2:-1] == ["out of memory", "not installed", "runs on CUDA only"]
    assert results[-1].rounds == 3


def test_a_slow_contender_leaves_the_race_after_one_round() -> None:
    assert [result.rounds for result in raced(contender("ours"), contender("peer"), seconds=0)] == [1, 1]


def test_a_plain_contender_that_would_not_end_is_not_started() -> None:
    lengths: list[int] = []

    def prepare(shape: Shape) -> Job:
        lengths.append(shape.length)
        return job(ones())

    def clock(_: object) -> float:
        return 1e-5 * lengths[-1] ** 2  # milliseconds, quadratic in the length

    plain = Contender(name="plain", prepare=prepare, is_plain=True)
    heat = race([plain], Shape(length=2**16), clock, rounds=1, seconds=60, label="test")
    assert heat.results[0].reason == "3 passes would take about 128.8 s, --seconds is 60"
    assert max(lengths) < 2**12
    heat = race([plain], Shape(length=2**16), clock, rounds=1, seconds=200, label="test")
    assert heat.results[0].reason is None
    assert lengths[-1] == 2**16


def test_kept_memory_is_what_autograd_saves_and_the_output(tmp_path: Path) -> None:
    arguments = ["conv", "--lengths", "32", *TINY, "--peers", "torch", "--out", str(tmp_path)]
    run("bench", arguments)
    record = json.loads((tmp_path / "bench-conv.json").read_text())
    ours, theirs = record["races"][0]["heats"][0]["results"]
    one = 32 * 32 * 4
    # Ours keeps its inputs alone; torch's keeps the convolution's result (three steps longer) for the SiLU.
    assert ours["kept_bytes"] <= one + 3 * 32 * 4
    assert theirs["kept_bytes"] == one + (32 + 3) * 32 * 4


def test_memory_is_drawn_against_length_where_it_was_measured() -> None:
    def heat(length: int, *peaks: int | None) -> Heat:
        results = [
            Result(
                name=f"mode {i}", milliseconds={}, peak_bytes=peak, reason=None if peak else "out of memory"
            )
            for i, peak in enumerate(peaks)
        ]
        return Heat(shape=Shape(length=length), results=results, work={}, tokens=0)

    plot = memory_plot("a race", [heat(1024, 10**8, 10**7), heat(4096, None, 10**7)], "length")
    assert plot is not None
    assert "mode 0" in plot
    assert "mode 1" in plot
    assert memory_plot("a race", [heat(1024, None, None), heat(4096, None, None)], "length") is None


def test_ways_of_keeping_activations_race_beside_each_other() -> None:
    text = run(
        "bench", ["lm", "--lengths", "48", "--batch", "2", "--n-layer", "2", "--peers", "mamba_ssm", *TINY]
    )
    assert text is not None
    names = ("ours ", "ours (blocks)", "ours (chunks)")
    assert [any(line.strip().startswith(name) for line in text.splitlines()) for name in names] == 3 * [True]
    assert "differs" not in text
    assert "batch 2, length 48" in text


def test_tables_say_what_the_numbers_say() -> None:
    ours = Result(name="ours", milliseconds={"forward": 2.0, "forward + backward": 8.0}, kept_bytes=3000)
    peer = Result(name="peer", milliseconds={"forward": 3.0, "forward + backward": 20.0}, kept_bytes=4000)
    gone = Result(name="gone", milliseconds={}, reason="not installed")
    work = {"forward": Work(bytes_moved=10**9, exponentials=10**9)}
    heat = Heat(shape=Shape(length=4), results=[ours, peer, gone], work=work, tokens=0)
    device = Device(bytes_per_second=1e12, exponentials_per_second=2e12)
    _, first, second, third, least = heat_table(heat, device).splitlines()
    assert first.split() == ["ours", "2.00", "-", "50.0%", "8.00", "-", "3", "kB", "0"]
    assert second.split() == ["peer", "3.00", "1.50x", "33.3%", "20.00", "2.50x", "4", "kB", "0"]
    assert third.split() == ["gone", "not", "installed"]
    assert least == "  forward: at least 1 GB moved and 1 G exponentials, 1.00 ms"
    slower = Device(bytes_per_second=1e12, exponentials_per_second=5e11)
    assert math.isclose(slower.least_ms(work["forward"]), 2.0)
    row = judged_table([heat], "peer").splitlines()[1].split()
    assert row[3:9] == ["2.00", "3.00", "1.50x", "8.00", "20.00", "2.50x"]
    assert row[9:] == ["3", "kB", "4", "kB", "0.75x"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["conv", "--batch", "0"], "--batch is 0"),
        (["conv", "--batch", "1,2"], "--batch takes one number for bench conv"),
        (["conv", "--lengths", "1k"], "--lengths is 1k; give whole numbers above 0"),
        (["conv", "--lengths", "16,-1"], "--lengths is 16,-1; give whole numbers above 0"),
        (["conv", "--rounds", "0"], "--rounds is 0"),
        (["conv", "--threads", "0"], "--threads is 0"),
        (["conv", "--d-state", "0"], "--d-state is 0"),
        (["conv", "--d-inner", "7"], "--d-inner is 7, it must be even"),
        (["conv", "--d-inner", "8", "--d-model", "4"], "--d-model or --d-inner"),
        (["conv", "--peers", "mambapy"], "bench conv knows no 'mambapy'; choose from causal_conv1d, torch"),
        (["conv", "--tokens", "8"], "--tokens is for bench lm, data, not for bench conv"),
        (["conv", "--shapes", "table"], "--shapes is for bench scan, not for bench conv"),
        (["scan", "--shapes", "table", "--lengths", "8"], "--shapes brings its own"),
        (["lm", "--tokens", "8", "--batch", "1"], "give --tokens or --batch, not both"),
        (["lm", "--tokens", "8", "--lengths", "16"], "--tokens is 8, it must be at least the longest length"),
        (
            ["genome", "--lengths", "8"],
            "--lengths is for bench scan, conv, block, lm, data, not for bench genome",
        ),
    ],
)
def test_bad_flags_end_in_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["bench", *arguments])
    assert exit_.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_not_there_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "scan", "--device", "cuda"])
    assert "torch sees no CUDA GPU; use --device cpu" in capsys.readouterr().err
