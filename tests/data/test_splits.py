"""Splits never share a base, and the guard band lies where it was asked for."""

from __future__ import annotations

from itertools import pairwise

import pytest
from bioaudio_data.interval import Interval
from bioaudio_data.splits import split_by_column, split_by_contig, split_by_fraction
from hypothesis import given
from hypothesis import strategies as st

APES = {"human": 20_102_500, "chimpanzee": 20_139_000}


def test_eighty_ten_ten_with_the_default_guard() -> None:
    splits = split_by_fraction({"z": 20_000_000})
    assert splits == {
        "train": [Interval("z", 0, 15_950_000, split="train")],
        "valid": [Interval("z", 16_050_000, 17_950_000, split="valid")],
        "test": [Interval("z", 18_050_000, 20_000_000, split="test")],
    }


def test_every_contig_is_cut_at_the_same_fractions() -> None:
    splits = split_by_fraction(APES, a=(0, 0.5), b=(0.5, 1))
    middle = [(left.end + right.start) / 2 for left, right in zip(splits["a"], splits["b"], strict=True)]
    assert middle == [length / 2 for length in APES.values()]


@given(
    lengths=st.lists(st.integers(1_000, 10**7), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 20), min_size=2, max_size=6, unique=True).map(sorted),
    guard=st.integers(0, 30),
)
def test_neighbours_are_a_guard_apart_and_nothing_else_is_lost(
    lengths: list[int], cuts: list[int], guard: int
) -> None:
    contigs = {f"c{i}": length for i, length in enumerate(lengths)}
    fractions = {f"s{i}": (a / 20, b / 20) for i, (a, b) in enumerate(pairwise(cuts))}
    splits = split_by_fraction(contigs, guard=guard, **fractions)
    for i, (contig, length) in enumerate(contigs.items()):
        parts = [splits[name][i] for name in fractions]
        assert all(part.contig == contig for part in parts)
        assert [b.start - a.end for a, b in pairwise(parts)] == [guard] * (len(parts) - 1)
        assert parts[0].start == round(cuts[0] / 20 * length)
        assert parts[-1].end == round(cuts[-1] / 20 * length)


def test_a_gap_between_fractions_counts_towards_the_guard() -> None:
    splits = split_by_fraction({"z": 1000}, guard=40, a=(0, 0.45), b=(0.5, 1))
    assert [str(splits[name][0]) for name in "ab"] == ["z:0-450", "z:500-1000"]


def test_a_short_contig_needs_a_guard_of_its_own() -> None:
    message = (
        r"contig z of 250000 bases is short for a guard of 100000 at each border \(the default\): "
        r"split valid would keep 0 of its 25000 bases; choose a smaller --guard"
    )
    with pytest.raises(ValueError, match=message):
        split_by_fraction({"z": 250_000})
    assert len(split_by_fraction({"z": 250_000}, guard=5_000)["valid"][0]) == 20_000
    with pytest.raises(ValueError, match="a guard of 30000 at each border: split valid would keep 0 of"):
        split_by_fraction({"z": 250_000}, guard=30_000)


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({"a": (0, 0.6), "b": (0.5, 1)}, "split b begins at 0.5, before split a ends at 0.6"),
        ({"a": (0.5, 0.5)}, "split a must be fractions"),
        ({"a": (0, 1.1)}, "split a must be fractions"),
        ({"a": (-0.1, 1)}, "split a must be fractions"),
    ],
)
def test_impossible_fractions_are_refused(fractions: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_by_fraction({"z": 1000}, guard=0, **fractions)


def test_a_negative_guard_is_refused() -> None:
    with pytest.raises(ValueError, match="guard must be 0 bases or more, got -1"):
        split_by_fraction({"z": 1000}, guard=-1)


def test_contigs_go_whole_to_the_split_that_names_them() -> None:
    contigs = {"chr1": 10, "chr2": 20, "chr3": 30}
    splits = split_by_contig(contigs, rest="train", valid=["chr2"])
    assert {name: [str(i) for i in members] for name, members in splits.items()} == {
        "valid": ["chr2:0-20"],
        "train": ["chr1:0-10", "chr3:0-30"],
    }
    assert all(i.split == name for name, members in splits.items() for i in members)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"test": ["chrQ"]}, "split test names contig 'chrQ'"),
        ({"valid": ["chr1"], "test": ["chr1"]}, "contig chr1 is given twice: to split valid and to test"),
        ({"valid": []}, "split valid has no contig"),
        ({"valid": ["chr1"], "rest": "train"}, "split train has no contig"),
    ],
)
def test_impossible_contig_splits_are_refused(splits: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_by_contig({"chr1": 10}, **splits)


def test_a_column_without_splits_is_refused() -> None:
    with pytest.raises(ValueError, match="interval a:0-1 names no split"):
        split_by_column([Interval("a", 0, 1)])
