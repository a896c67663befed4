"""Counts of codes give the entropy of their source, and the bits of clips that were not counted."""

from __future__ import annotations

import numpy as np
import pytest
from bioaudio_recipes.counting import CodeCounts


def counted(*clips: list[int], codes: int = 4) -> CodeCounts:
    counts = CodeCounts(codes)
    for clip in clips:
        counts.add(np.array(clip, np.uint8))
    return counts


def test_pairs_do_not_reach_over_clips() -> None:
    assert counted([0, 1, 1], [2]).pairs.tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0] * 4, [0] * 4]
    assert counted([0, 1], [0, 1]).pairs[0, 1] == 2


def test_entropy_is_golden() -> None:
    # After 0 comes 1 or 2, evenly (1 bit, 4 times); after 1 and 2 always 0 (0 bits, 4 times).
    assert counted([0, 1, 0, 2, 0, 1, 0, 2, 0]).entropy() == pytest.approx(0.5)


def test_entropy_and_bits_are_those_of_a_markov_chain() -> None:
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.ones(4), size=4)
    codes = [0]
    for draw in rng.random(60_000):
        codes.append(int(min(3, np.searchsorted(rows[codes[-1]].cumsum(), draw))))
    train, test = counted(codes[:50_000]), counted(codes[50_000:])
    weights = train.pairs.sum(1) / train.pairs.sum()
    true = float(-(weights[:, None] * rows * np.log2(rows)).sum())
    assert train.entropy() == pytest.approx(true, abs=0.01)
    assert train.bits_of(test) == pytest.approx(true, abs=0.02)
    assert train.bits_of(test) > test.entropy()


def test_codes_never_seen_cost_finite_bits() -> None:
    assert 0 < counted([0, 0, 0]).bits_of(counted([3, 2, 1, 0])) < 10


def test_nothing_to_count_is_refused() -> None:
    with pytest.raises(ValueError, match="no pair of codes was counted"):
        counted([1]).entropy()
    with pytest.raises(ValueError, match="counts of 4 codes cannot score 8 codes"):
        counted([0, 1]).bits_of(counted([0, 1], codes=8))
