"""Token and step arithmetic: the numbers of the paper, and `bioaudio plan` that prints them."""

from __future__ import annotations

from pathlib import Path

import pytest
from bioaudio_data.bed import write_bed
from bioaudio_data.genome import convert_genome
from bioaudio_data.interval import Interval
from bioaudio_data.plan import plan_stages
from bioaudio_data.windows import Windows
from bioaudio_recipes.cli import main
from hypothesis import given
from hypothesis import strategies as st

LENGTHS = [2**power for power in range(10, 21)]
PAPER_STEPS = [532] * 8 + [2_126, 4_253, 8_505]


@pytest.fixture(scope="module")
def enformer_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BED with as many segments of 2^17 bases as the Enformer splits, at made-up places 2^20 apart."""
    rows = {"train": 34_021, "valid": 2_213, "test": 1_937}
    words = [split for split, count in rows.items() for _ in range(count)]
    path = tmp_path_factory.mktemp("plan") / "intervals.bed"
    write_bed(path, [Interval("chr1", i * 2**20, i * 2**20 + 2**17, split=w) for i, w in enumerate(words)])
    return path


def test_steps_of_the_paper() -> None:
    train = [Interval("chr1", i * 2**17, (i + 1) * 2**17) for i in range(34_021)]
    counts = {length: len(Windows(train, length, "mamba")) for length in LENGTHS}
    stages = plan_stages(counts, tokens_per_step=2**24, epochs=2)
    assert [stage.steps for stage in stages] == PAPER_STEPS
    assert [stage.batch_size for stage in stages] == [2**24 // length for length in LENGTHS]
    assert [stage.tokens for stage in stages[:8]] == [4_459_200_512] * 8
    # The paper's figure of about 19,137 steps is the sum before rounding; whole steps make 19,140.
    assert sum(stage.steps for stage in stages) == 19_140
    assert sum(stage.epochs * stage.tokens for stage in stages) / 2**24 == 19_136.8125


@given(
    counts=st.dictionaries(st.integers(0, 12).map(lambda p: 2**p), st.integers(1, 10**6), min_size=1),
    epochs=st.floats(0.01, 50),
)
def test_every_step_has_the_same_tokens(counts: dict[int, int], epochs: float) -> None:
    for stage in plan_stages(counts, tokens_per_step=2**14, epochs=epochs):
        assert stage.batch_size * stage.length == 2**14
        assert stage.tokens == counts[stage.length] * stage.length
        assert stage.steps >= 1
        assert stage.steps == 1 or abs(stage.steps - epochs * stage.tokens / 2**14) <= 0.5


def test_epochs_may_differ_by_stage() -> None:
    stages = plan_stages({4: 8, 8: 4}, tokens_per_step=8, epochs=[1, 3])
    assert [(stage.epochs, stage.steps) for stage in stages] == [(1, 4), (3, 12)]


@pytest.mark.parametrize(
    ("counts", "tokens", "epochs", "message"),
    [
        ({3: 5}, 16, 1, "length 3 does not divide tokens_per_step 16"),
        ({32: 5}, 16, 1, "length 32 does not divide tokens_per_step 16"),
        ({4: 5}, 0, 1, "does not divide tokens_per_step 0"),
        ({4: 0}, 16, 1, "above 0"),
        ({4: 5}, 16, 0, "above 0"),
        ({4: 5}, 16, float("nan"), "above 0"),
        ({4: 5}, 16, [1, 1], "2 values of epochs for 1 lengths"),
    ],
)
def test_impossible_stages_are_refused(counts, tokens, epochs, message) -> None:
    with pytest.raises(ValueError, match=message):
        plan_stages(counts, tokens_per_step=tokens, epochs=epochs)


def test_the_command_prints_the_paper_without_a_genome(
    enformer_like: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["plan", "--bed", str(enformer_like)])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.replace(",", "").split() for line in lines[1:12]]
    assert [int(row[0]) for row in rows] == LENGTHS
    assert [int(row[-1]) for row in rows] == PAPER_STEPS
    assert lines[12:] == ["19,140 steps in all (19,136.8 before each stage is rounded)"]


def test_the_command_tells_of_leakage(enformer_like: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--bed", str(enformer_like), "--check_leakage", "true"]
    main([*arguments, "--rule", "caduceus", "--lengths", "[1024]"])
    assert capsys.readouterr().out.splitlines()[-1] == (
        "no leakage between train (34,021 segments), valid (2,213 segments), test (1,937 segments)"
    )
    main([*arguments, "--rule", "hyenadna", "--lengths", "[2097152]"])
    leaks = capsys.readouterr().out.splitlines()[-2:]
    assert leaks[0].startswith(
        "leakage: windows of 2097152: train and valid share 1048576 bases, first train chr1:"
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lengths", "[3000]"], "length 3000 does not divide tokens_per_step 16777216"),
        (["--split", "trian"], "there is no split 'trian': choose --split from train, valid"),
        (["--rule", "middle"], "middle"),
        (["--rule", "tile", "--lengths", "[262144]"], "no window of 262144 bases fits"),
    ],
)
def test_the_command_answers_bad_flags_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    path = tmp_path / "intervals.bed"
    path.write_text("chr1\t0\t131072\ttrain\nchr1\t140000\t271072\tvalid\n")
    with pytest.raises(SystemExit) as exit_:
        main(["plan", "--bed", str(path), *flags])
    error = capsys.readouterr().err
    assert (exit_.value.code, error.count("\n")) == (2, 1)
    assert message in error


def test_the_command_needs_intervals_from_somewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["plan"])
    assert exit_.value.code == 2
    assert "give --bed FILE, or --genome FOLDER" in capsys.readouterr().err


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("genome")
    (folder / "small.fa").write_text(">long\n" + "ACGT" * 5_000 + "\n>short\n" + "ACGT" * 1_000 + "\n")
    convert_genome([folder / "small.fa"], folder / "store", progress=False)
    return folder / "store"


def test_the_command_splits_a_genome_by_position(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(
        ["plan", "--genome", str(store), "--guard", "200", "--lengths", "[1024]", "--tokens-per-step", "1024"]
    )
    row = capsys.readouterr().out.splitlines()[1].replace(",", "").split()
    windows = (16_000 - 100) // 1024 + (3_200 - 100) // 1024
    assert [float(cell) for cell in row] == [1024, windows, 1, windows * 1024, 2, 2 * windows]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "contig long of 20000 bases is short for a guard of 100000 at each border (the default)"),
        (["--guard", "0", "--lengths", "[32768]"], "longer than every contig: the longest, long, has 20000"),
    ],
)
def test_the_command_says_what_a_small_genome_cannot_hold(
    store: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["plan", "--genome", str(store), *flags])
    error = capsys.readouterr().err
    assert (exit_.value.code, error.count("\n")) == (2, 1)
    assert message in error


def test_intervals_must_lie_in_the_genome_given(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "intervals.bed"
    path.write_text("long\t0\t20000\ttrain\nshort\t0\t4001\tvalid\n")
    with pytest.raises(SystemExit):
        main(["plan", "--genome", str(store), "--bed", str(path)])
    assert "line 2: short:0-4001 ends beyond its contig, which has 4000 bases" in capsys.readouterr().err
