"""Counting baselines agree with a dictionary that counts the obvious way."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from bioaudio_data.vocabulary import DNA
from bioaudio_recipes.counting import (
    BREAK,
    MAX_ORDER,
    Baseline,
    ContextTable,
    CountingBaselines,
    context_keys,
    reverse_complement,
    symbols_of,
)
from bioaudio_recipes.counting.smoothing import BucketWeights, PseudoCount
from bioaudio_recipes.counting.table import Evidence
from hypothesis import given, settings
from hypothesis import strategies as st

sequences = st.lists(st.text("ACGTN", min_size=1, max_size=60), min_size=1, max_size=4)


def symbols(text: str) -> np.ndarray:
    return symbols_of(DNA.encode(text))


def opposite(text: str) -> str:
    return text[::-1].translate(str.maketrans("ACGT", "TGCA"))


def counted_by_dictionary(texts: list[str], order: int) -> defaultdict[str, Counter[str]]:
    """What followed each context of `order` bases, both strands; windows with an N count nowhere."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for text in [*texts, *map(opposite, texts)]:
        for i in range(order, len(text)):
            window = text[i - order : i + 1]
            if "N" not in window:
                counts[window[:-1]][window[-1]] += 1
    return counts


@settings(max_examples=60, deadline=None)
@given(train=sequences, test=st.text("ACGTN", min_size=1, max_size=60), longest=st.integers(1, MAX_ORDER))
def test_evidence_equals_a_dictionary(train: list[str], test: str, longest: int) -> None:
    if not set("".join(train)) & set("ACGT"):
        train = [*train, "A"]
    table = ContextTable([symbols(text) for text in train], longest)
    keys = context_keys(symbols(test), longest)
    places = [i for i, base in enumerate(test) if base != "N"]
    order_of_keys = np.argsort(keys, kind="stable")
    for order in range(longest + 1):
        counts = counted_by_dictionary(train, order)
        found = table.evidence(keys[order_of_keys], order)
        for row, key in enumerate(order_of_keys):
            i = places[key]
            context = test[i - order : i] if i >= order else "N"
            expected = counts[context] if "N" not in context else Counter()
            assert (found.seen[row], found.total[row], found.distinct[row]) == (
                expected[test[i]],
                expected.total(),
                len([n for n in expected.values() if n]),
            )


def test_scored_mask_keeps_context_but_asks_for_fewer_keys() -> None:
    text = symbols("ACGTTGCANACGT")
    wanted = np.arange(len(text)) % 3 == 0
    expected = [
        key for key, i in zip(context_keys(text, 4), np.flatnonzero(text < BREAK), strict=True) if wanted[i]
    ]
    assert context_keys(text, 4, wanted).tolist() == expected


def test_reverse_complement_twice_is_the_sequence() -> None:
    text = symbols("ACGTNNGATTACA")
    np.testing.assert_array_equal(reverse_complement(reverse_complement(text)), text)


def test_back_off_equals_the_formula() -> None:
    train, valid, test = "ACGTACGGTTACCGATTN", "ACGGTTAC", "TTACGATN"
    models = CountingBaselines([symbols(train)], [symbols(valid)], [Baseline(3, "back-off")])
    alphas = [models._fits[Baseline(order, "back-off")] for order in range(4)]
    bits = 0.0
    for i, base in enumerate(test.rstrip("N")):
        probability = 0.25
        for order, fitted in enumerate(alphas):
            assert isinstance(fitted, PseudoCount)
            seen = counted_by_dictionary([train], order)[test[i - order : i]] if i >= order else Counter()
            probability = (seen[base] + fitted.alpha * probability) / (seen.total() + fitted.alpha)
        bits -= math.log2(probability)
    (score,) = models.score([(symbols(test), None)])
    assert score.bases == 7
    assert score.bits_per_base == pytest.approx(bits / 7, rel=1e-12)


@pytest.mark.parametrize("smoothing", ["fixed", "back-off", "interpolated"])
def test_probabilities_of_the_four_bases_sum_to_one(smoothing: str, generator: np.random.Generator) -> None:
    train, valid = generator.integers(0, 4, (2, 5000)).astype(np.uint8)
    models = CountingBaselines([train], [valid], [Baseline(5, smoothing)])  # pyright: ignore[reportArgumentType]
    context = generator.integers(0, 4, 9).astype(np.uint8)
    last = np.arange(10) == 9
    total = sum(
        2.0 ** -models.score([(np.append(context, np.uint8(base)), last)])[0].bits_per_base
        for base in range(4)
    )
    assert total == pytest.approx(1.0, rel=1e-9)


def test_fitted_weights_are_the_best_of_a_grid(generator: np.random.Generator) -> None:
    size = 3000
    total = np.full(size, 8, np.uint32)
    seen = generator.integers(0, 6, size).astype(np.uint32)
    evidence, shorter = Evidence(seen, total, np.full(size, 3, np.uint8)), generator.uniform(0.1, 0.5, size)

    def cross_entropy(weight: float) -> float:
        return float(-np.log((1 - weight) * seen / total + weight * shorter).mean())

    fitted = BucketWeights.fit(evidence, shorter).probability(evidence, shorter)
    assert -np.log(fitted).mean() <= min(map(cross_entropy, np.linspace(0.01, 1, 100))) + 1e-9


def test_models_find_structure_on_both_strands(generator: np.random.Generator) -> None:
    unit = generator.integers(0, 4, 500).astype(np.uint8)
    noise = generator.integers(0, 4, 20_000).astype(np.uint8)
    test = reverse_complement(unit)
    models = CountingBaselines([np.tile(unit, 5), noise], [np.append(unit, noise[:500])])
    scores = {score.baseline.name: score.perplexity for score in models.score([(test, None)])}
    assert scores["order-16 back-off"] < 2
    assert scores["order-16 interpolated"] < 2


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, generator: np.random.Generator) -> None:
    train, valid, *test = generator.integers(0, 5, (5, 3000)).astype(np.uint8)
    models = CountingBaselines([train], [valid])
    pieces = [(piece, None) for piece in test]
    whole = models.score(pieces)
    monkeypatch.setattr("bioaudio_recipes.counting.baselines.QUERY_CHUNK", 700)
    for one, other in zip(models.score(pieces), whole, strict=True):
        assert one.bases == other.bases
        assert one.bits_per_base == pytest.approx(other.bits_per_base, rel=1e-12)


def test_refuses_what_cannot_be_counted() -> None:
    bases, nothing = symbols("ACGT"), symbols("NNNN")
    with pytest.raises(ValueError, match="training split has no A"):
        CountingBaselines([nothing], [bases])
    with pytest.raises(ValueError, match="validation split, which has no A"):
        CountingBaselines([bases], [nothing])
    with pytest.raises(ValueError, match=f"1 to {MAX_ORDER} bases, not 22"):
        CountingBaselines([bases], [bases], [Baseline(22)])
    with pytest.raises(ValueError, match="test split has no A"):
        CountingBaselines([bases], [bases]).score([(nothing, None)])


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(7)
