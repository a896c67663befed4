"""Window rules: exact places, and the promises of each rule for any segments."""

from __future__ import annotations

import tracemalloc
from typing import get_args

import numpy as np
import pytest
from bioaudio_data.interval import Interval
from bioaudio_data.windows import WindowRule, Windows
from hypothesis import given, settings
from hypothesis import strategies as st

RULES = get_args(WindowRule)
CONTIGS = {"chr1": 5_000_000, "chr2": 3_000_000}
SEGMENTS = [Interval("chr1", 100, 1_100), Interval("chr1", 4_000, 4_300), Interval("chr2", 0, 50)]


@st.composite
def segments(draw: st.DrawFn) -> list[Interval]:
    """Segments that do not overlap, on two contigs, in any order."""
    result = []
    for contig, length in CONTIGS.items():
        cuts = draw(st.lists(st.integers(0, 600), max_size=6, unique=True).map(sorted))
        result += [Interval(contig, a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
        if draw(st.booleans()):
            result.append(Interval(contig, length - draw(st.integers(1, 150)), length))
    return draw(st.permutations(result or [Interval("chr1", 0, 1_000)]))


def places(windows: Windows) -> list[str]:
    return [str(window) for window in windows]


def test_mamba_cuts_segments_and_takes_two_windows_of_shorter_ones() -> None:
    assert places(Windows(SEGMENTS, 300, "mamba", CONTIGS)) == [
        *("chr1:100-400", "chr1:400-700", "chr1:700-1000"),
        "chr1:4000-4300",
        *("chr2:0-300", "chr2:-250-50"),
    ]


def test_hyenadna_takes_one_window_a_segment() -> None:
    assert places(Windows(SEGMENTS, 301, "hyenadna", CONTIGS)) == [
        "chr1:100-401",
        "chr1:4000-4301",
        "chr2:-125-176",
    ]


def test_caduceus_cuts_a_megabase_that_fits_the_contig() -> None:
    ends = [Interval("chr1", 100, 1_100), Interval("chr2", 2_900_000, 2_900_500)]
    windows = Windows(ends, 2**19, "caduceus", CONTIGS)
    first = 3_000_000 - 2**20
    assert places(windows) == [
        f"chr1:100-{100 + 2**19}",
        f"chr1:{100 + 2**19}-{100 + 2**20}",
        f"chr2:{first}-{first + 2**19}",
        f"chr2:{first + 2**19}-3000000",
    ]


def test_tile_never_leaves_a_segment() -> None:
    assert places(Windows(SEGMENTS, 300, "tile", CONTIGS)) == [
        *("chr1:100-400", "chr1:400-700", "chr1:700-1000"),
        "chr1:4000-4300",
    ]


@pytest.mark.parametrize(
    ("rule", "counts"),
    [
        ("mamba", [4_354_688 // 2**i for i in range(8)] + [68_042] * 3),
        ("hyenadna", [34_021] * 11),
        ("caduceus", [34_021 * 2 ** (10 - i) for i in range(11)]),
        ("tile", [4_354_688 // 2**i for i in range(8)]),
    ],
)
def test_counts_of_the_paper_for_34021_segments(rule: WindowRule, counts: list[int]) -> None:
    train = [Interval("chr1", i * 2**17, (i + 1) * 2**17) for i in range(34_021)]
    assert [len(Windows(train, 2 ** (10 + i), rule)) for i in range(len(counts))] == counts


@settings(max_examples=50)
@given(segments(), st.integers(1, 120), st.sampled_from(["tile", "mamba"]))
def test_pieces_never_overlap_and_cover_all_but_the_remainder(
    segments: list[Interval], length: int, rule: WindowRule
) -> None:
    long_enough = [segment for segment in segments if len(segment) >= length]
    if not long_enough:
        return
    windows = list(Windows(long_enough, length, rule, CONTIGS))
    covered = {(w.contig, base) for w in windows for base in range(w.start, w.end)}
    assert len(covered) == len(windows) * length
    assert len(covered) == sum(len(segment) // length * length for segment in long_enough)
    assert all(any(segment.contains(w) for segment in long_enough) for w in windows)


@settings(max_examples=50)
@given(segments(), st.integers(1, 1_000))
def test_long_mamba_windows_begin_and_end_with_their_segment(segments: list[Interval], length: int) -> None:
    windows = Windows(segments, length, "mamba", CONTIGS)
    for i, segment in enumerate(segments):
        own = [windows[number] for number in windows.of_segment(i)]
        if len(segment) < length:
            assert [(w.start, w.end) for w in own] == [
                (segment.start, segment.start + length),
                (segment.end - length, segment.end),
            ]


@settings(max_examples=50)
@given(segments(), st.integers(1, 1_000))
def test_hyenadna_windows_are_centred_on_shorter_segments(segments: list[Interval], length: int) -> None:
    for window, segment in zip(Windows(segments, length, "hyenadna"), segments, strict=True):
        if len(segment) >= length:
            assert window.start == segment.start
        else:
            assert (window.start, window.end) == (segment.resize(length).start, segment.resize(length).end)


@settings(max_examples=50)
@given(segments(), st.sampled_from([64, 256, 2**12, 2**20]), st.sampled_from(RULES))
def test_locate_and_spans_agree_with_the_windows_one_by_one(
    segments: list[Interval], length: int, rule: WindowRule
) -> None:
    if rule == "tile" and all(len(segment) < length for segment in segments):
        return
    windows = Windows(segments, length, rule, CONTIGS)
    numbers = np.unique(np.linspace(0, len(windows) - 1, 50).astype(int))
    contig, start = windows.locate(numbers)
    assert [str(windows[int(n)]) for n in numbers] == [
        f"{windows.contigs[c]}:{s}-{s + length}" for c, s in zip(contig.tolist(), start.tolist(), strict=True)
    ]
    span_contig, first, end = windows.spans()
    for i in range(len(segments)):
        own = windows.of_segment(i)
        assert len(own) == 0 or windows.contigs[span_contig[i]] == windows[own[0]].contig
        starts = windows.locate(np.array(own))[1]
        assert (first[i], end[i]) == (
            (starts.min(), starts.max() + length) if len(own) else (first[i], first[i])
        )
        assert np.all(np.abs(np.diff(starts)) <= length), "a gap between the windows of a segment"


@given(st.integers(1, 64), st.integers(0, 17))
def test_every_length_has_the_same_tokens_in_an_epoch(count: int, power: int) -> None:
    train = [Interval("chr1", i * 2**17, (i + 1) * 2**17) for i in range(count)]
    assert len(Windows(train, 2**power, "mamba")) * 2**power == count * 2**17


def test_windows_keep_what_their_segment_says() -> None:
    segment = Interval("chr1", 0, 10, strand="-", split="train", name="x")
    assert Windows([segment], 5, "tile")[1] == Interval("chr1", 5, 10, strand="-", split="train", name="x")


def test_windows_are_a_sequence() -> None:
    windows = Windows(SEGMENTS, 300, "tile", CONTIGS)
    assert windows[-1] == windows[3]
    assert windows[1:3] == [windows[1], windows[2]]
    for wrong in (4, -5):
        with pytest.raises(IndexError, match=f"window {wrong} of 4"):
            windows[wrong]
    for wrong in ([4], [-1]):
        with pytest.raises(IndexError, match=r"0 \.\. 3"):
            windows.locate(wrong)


def test_memory_grows_with_segments_not_with_windows() -> None:
    segment = [Interval("chr1", 0, 2**31)]
    tracemalloc.start()
    try:
        windows = Windows(segment, 1, "tile")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(windows) == 2**31
    assert peak < 100_000


@pytest.mark.parametrize("rule", RULES)
def test_a_window_longer_than_every_contig_is_refused(rule: WindowRule) -> None:
    with pytest.raises(ValueError, match="longer than every contig: the longest, chr1, has 1000"):
        Windows([Interval("chr1", 0, 500)], 1024, rule, {"chr1": 1000, "chr2": 10})


@pytest.mark.parametrize(
    ("segment", "length", "rule", "contigs", "message"),
    [
        (Interval("chr1", 0, 500), 501, "tile", None, "the longest segment, chr1:0-500, has 500"),
        (Interval("chrQ", 0, 500), 5, "tile", CONTIGS, "no contig 'chrQ'"),
        (Interval("chr2", 0, 3_000_001), 5, "tile", CONTIGS, "leaves its contig, which has 3000000 bases"),
        (Interval("chr2", -1, 5), 5, "tile", CONTIGS, "leaves its contig"),
        (Interval("chr1", 0, 500), 0, "tile", None, "at least 1 base, got length 0"),
        (Interval("chr1", 0, 500), 5, "middle", None, "unknown window rule 'middle': choose one of mamba,"),
        (
            Interval("chr1", 0, 500),
            1000,
            "caduceus",
            CONTIGS,
            "cannot cut 1048576 bases into windows of 1000",
        ),
        (Interval("chr1", 0, 500), 16, "caduceus", {"chr1": 9_999}, "the shortest of .* has 9999"),
    ],
)
def test_impossible_windows_are_refused(segment, length, rule, contigs, message) -> None:
    with pytest.raises(ValueError, match=message):
        Windows([segment], length, rule, contigs)


def test_no_segments_are_refused() -> None:
    with pytest.raises(ValueError, match="the split is empty"):
        Windows([], 5, "tile")
