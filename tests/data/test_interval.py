"""`Interval`: half-open arithmetic, and text that comes back as it was."""

from __future__ import annotations

import pytest
from bioaudio_data.interval import Interval
from hypothesis import given
from hypothesis import strategies as st


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    start = draw(st.integers(-50, 50))
    return Interval(
        draw(st.sampled_from(["chr1", "HLA-A*01:01", "z"])), start, start + draw(st.integers(1, 40))
    )


def bases(interval: Interval | None) -> set[tuple[str, int]]:
    return (
        set()
        if interval is None
        else {(interval.contig, base) for base in range(interval.start, interval.end)}
    )


@given(intervals())
def test_text_form_comes_back(interval: Interval) -> None:
    assert Interval.parse(str(interval)) == interval


@given(intervals(), intervals())
def test_set_operations_agree_with_sets_of_bases(one: Interval, other: Interval) -> None:
    assert one.overlaps(other) == other.overlaps(one) == bool(bases(one) & bases(other))
    assert one.contains(other) == (bases(other) <= bases(one))
    assert bases(one.intersect(other)) == bases(one) & bases(other)


@given(intervals(), st.integers(1, 60))
def test_clip_keeps_what_is_in_the_contig(interval: Interval, length: int) -> None:
    assert bases(interval.clip(length)) == bases(interval) & {(interval.contig, i) for i in range(length)}


@given(intervals(), st.integers(1, 60), st.integers(-60, 60))
def test_resize_and_shift_keep_length_and_centre(interval: Interval, length: int, offset: int) -> None:
    resized = interval.resize(length)
    assert len(resized) == length
    assert 0 <= (resized.start + resized.end) - (interval.start + interval.end) <= 1
    shifted = interval.shift(offset)
    assert (shifted.start - interval.start, len(shifted)) == (offset, len(interval))
    assert shifted.shift(-offset) == interval


def test_reverse_complement_turns_only_the_strand() -> None:
    plus = Interval("chr1", 3, 9, strand="+", split="train", name="x")
    minus = Interval("chr1", 3, 9, strand="-", split="train", name="x")
    assert plus.reverse_complement() == minus
    assert minus.reverse_complement() == plus
    assert Interval("chr1", 3, 9).reverse_complement() == Interval("chr1", 3, 9)


def test_an_interval_is_a_value() -> None:
    assert len({Interval("a", 0, 1), Interval("a", 0, 1), Interval("a", 0, 2)}) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("chr1", 5, 5), "chr1:5-5: the end must be greater"),
        (("chr1", 5, 4), "chr1:5-4: the end must be greater"),
        (("", 0, 1), "contig name"),
        (("chr 1", 0, 1), "contig name"),
        (("chr1", 0, 1, "*"), "strand '\\*' is not one of"),
    ],
)
def test_what_is_no_interval_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Interval(*arguments)


@pytest.mark.parametrize("text", ["", "chr1", "chr1:5", "chr1:1,000-2,000", "chr1:9-3", "chr 1:0-5", ":0-5"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="interval"):
        Interval.parse(text)
