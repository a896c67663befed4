"""The leakage check counts exactly the bases that windows of two splits share."""

from __future__ import annotations

from itertools import combinations
from typing import get_args

import numpy as np
import pytest
from bioaudio_data.interval import Interval
from bioaudio_data.leakage import check_leakage, find_leaks
from bioaudio_data.windows import WindowRule, Windows
from hypothesis import given
from hypothesis import strategies as st

CONTIGS = {"a": 400, "b": 90}


@st.composite
def splits(draw: st.DrawFn) -> dict[str, list[Interval]]:
    result = {}
    for name in draw(st.sampled_from([("train", "valid"), ("train", "valid", "test")])):
        segments = []
        for _ in range(draw(st.integers(1, 4))):
            contig = draw(st.sampled_from(sorted(CONTIGS)))
            start = draw(st.integers(0, CONTIGS[contig] - 1))
            end = draw(st.integers(start + 1, min(start + 60, CONTIGS[contig])))
            segments.append(Interval(contig, start, end, split=name))
        result[name] = segments
    return result


def bases(windows: Windows, shift: int, known: bool) -> set[tuple[str, int]]:
    return {
        (w.contig, base)
        for w in windows
        for base in range(w.start - shift, w.end + shift)
        if base >= 0 and (not known or base < CONTIGS[w.contig])
    }


@given(
    splits=splits(),
    length=st.integers(1, 80),
    rule=st.sampled_from(["mamba", "hyenadna", "tile"]),
    shift=st.integers(0, 12),
    known=st.booleans(),
)
def test_shared_bases_are_those_of_a_brute_force_count(
    splits: dict[str, list[Interval]], length: int, rule: WindowRule, shift: int, known: bool
) -> None:
    lengths = CONTIGS if known else None
    leaks = {leak.splits: leak for leak in find_leaks(splits, [length], rule, lengths, max_shift=shift)}
    windows = {
        name: Windows(fitting, length, rule, lengths)
        for name, segments in splits.items()
        if (fitting := [s for s in segments if rule != "tile" or len(s) >= length])
    }
    for one, other in combinations(windows, 2):
        shared = bases(windows[one], shift, known) & bases(windows[other], shift, known)
        leak = leaks.pop((one, other), None)
        assert (leak.bases if leak else 0) == len(shared)
        if leak:
            first, second = (
                Interval(w.contig, w.start - shift, w.end + shift, split=w.split) for w in leak.windows
            )
            assert (first.split, second.split) == (one, other)
            overlap = first.intersect(second)
            assert overlap is not None
            assert shared & {(overlap.contig, base) for base in range(overlap.start, overlap.end)}
            assert leak.windows[0] in windows[one]
            assert leak.windows[1] in windows[other]
    assert not leaks


def test_caduceus_windows_leak_where_segments_do_not_touch() -> None:
    splits = {
        "train": [Interval("a", 0, 2**17, split="train")],
        "test": [Interval("a", 2**19, 2**19 + 2**17, split="test")],
    }
    assert find_leaks(splits, [2**17], "mamba") == []
    (leak,) = find_leaks(splits, [2**17], "caduceus")
    assert leak.bases == 2**19
    assert leak.splits == ("train", "test")
    assert [str(w) for w in leak.windows] == ["a:524288-655360", "a:524288-655360"]


def test_leakage_is_refused_with_count_and_first_windows() -> None:
    splits = {
        "train": [Interval("a", 0, 100, split="train")],
        "test": [Interval("a", 105, 160, split="test")],
    }
    check_leakage(splits, [10, 50], "tile", CONTIGS)
    message = (
        "windows of 10: train and test share 3 bases, first train a:90-100 and test a:105-115"
        ".*use --rule tile"
    )
    with pytest.raises(ValueError, match=message):
        check_leakage(splits, [10], "tile", CONTIGS, max_shift=4)
    with pytest.raises(ValueError, match="1 more"):
        check_leakage(splits, [10, 20], "tile", CONTIGS, max_shift=20)


def test_splits_without_a_window_cannot_leak() -> None:
    splits = {"train": [Interval("a", 0, 100)], "test": [Interval("a", 50, 60)]}
    assert find_leaks(splits, [20], "tile") == []


def test_all_rules_are_checked_at_the_size_of_the_genome() -> None:
    rng = np.random.default_rng(0)
    starts = np.sort(rng.integers(0, 10**9, 34_021 + 2_213 + 1_937))
    words = rng.choice(["train", "valid", "test"], len(starts), p=[0.9, 0.05, 0.05])
    splits = {
        name: [Interval("a", int(s), int(s) + 2**17, split=name) for s in starts[words == name]]
        for name in ("train", "valid", "test")
    }
    for rule in get_args(WindowRule):
        assert len(find_leaks(splits, [2**17], rule)) == 3


def test_splits_that_are_not_cut_count_as_their_segments() -> None:
    splits = {
        "train": [Interval("a", 0, 100, split="train")],
        "valid": [Interval("a", 120, 150, split="valid")],
    }
    assert find_leaks(splits, [100], "mamba", CONTIGS, max_shift=20, cut=["train"]) == []
    (leak,) = find_leaks(splits, [100], "mamba", CONTIGS, max_shift=25, cut=["train"])
    assert (leak.bases, [str(w) for w in leak.windows]) == (5, ["a:0-100", "a:120-121"])
    assert find_leaks(splits, [100], "mamba", CONTIGS)[0].bases == 50


def test_bases_between_windows_are_not_shared() -> None:
    splits = {
        "train": [Interval("a", 0, 10), Interval("a", 11, 20), Interval("a", 20, 30)],
        "valid": [Interval("a", 10, 11), Interval("a", 30, 40)],
    }
    assert find_leaks(splits, [1], "tile", CONTIGS) == []
