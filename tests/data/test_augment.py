"""Augmentation draws depend on (seed, epoch, index) and on nothing else, and have the law they should."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from bioaudio_data.augment import Augmentation, counter_hash, split_mix_64
from hypothesis import given
from hypothesis import strategies as st

COUNT = 200_000
AUGMENTATION = Augmentation(reverse_complement=0.5, max_shift=3)
KEYS = st.integers(-(2**63), 2**64 - 1)


@given(KEYS, KEYS, st.lists(st.integers(0, 2**62), min_size=1, max_size=20), st.randoms())
def test_a_draw_does_not_depend_on_what_else_is_drawn(
    seed: int, epoch: int, indices: list[int], random
) -> None:
    together = AUGMENTATION.draw(seed, epoch, np.array(indices))
    order = list(range(len(indices)))
    random.shuffle(order)
    for i in order:
        flip, shift = AUGMENTATION.draw(seed, epoch, indices[i])
        assert isinstance(flip, bool)
        assert isinstance(shift, int)
        assert (flip, shift) == (together[0][i], together[1][i])


def test_workers_draw_the_same() -> None:
    indices = np.arange(10_000)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda part: AUGMENTATION.draw(7, 1, part), np.array_split(indices, 9)))
    whole = AUGMENTATION.draw(7, 1, indices)
    assert np.array_equal(np.concatenate([flip for flip, _ in parts]), whole[0])
    assert np.array_equal(np.concatenate([shift for _, shift in parts]), whole[1])


def test_draws_stay_the_same_between_releases() -> None:
    flip, shift = AUGMENTATION.draw(0, 0, np.arange(12))
    assert "".join(map(str, flip.astype(int))) == "101001011001"
    assert shift.tolist() == [-2, 1, 1, -1, 1, 1, 2, 2, 2, 0, 3, -1]


def test_the_hash_is_splitmix64() -> None:
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x6C45D188009454F]  # first outputs for seed 0
    assert split_mix_64(np.zeros(3, np.uint64), np.arange(3, dtype=np.uint64)).tolist() == published


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_strands_are_drawn_with_their_probability(probability: float) -> None:
    flips, _ = Augmentation(reverse_complement=probability).draw(3, 0, np.arange(COUNT))
    deviation = np.sqrt(probability * (1 - probability) / COUNT)
    assert abs(flips.mean() - probability) < 5 * deviation


def test_shifts_are_uniform_and_independent_of_the_strand() -> None:
    flips, shifts = AUGMENTATION.draw(3, 0, np.arange(COUNT))
    table = np.array([np.bincount(shifts[flips == strand] + 3, minlength=7) for strand in (False, True)])
    expected = COUNT / table.size
    assert ((table - expected) ** 2 / expected).sum() < 45  # chi-square, 13 degrees of freedom, p = 2e-5


@pytest.mark.parametrize("which", ["seed", "epoch", "index"])
def test_neighbouring_keys_are_uncorrelated(which: str) -> None:
    index = np.arange(COUNT)
    base = counter_hash(5, 2, index)
    other = {
        "seed": counter_hash(6, 2, index),
        "epoch": counter_hash(5, 3, index),
        "index": counter_hash(5, 2, index + 1),
    }[which]
    bits = np.unpackbits((base ^ other).view(np.uint8)).mean()
    assert abs(bits - 0.5) < 5 * 0.5 / np.sqrt(64 * COUNT)


def test_seed_epoch_and_index_do_not_stand_for_each_other() -> None:
    hashes = [counter_hash(seed, epoch, np.arange(30)) for seed in range(30) for epoch in range(30)]
    assert len(np.unique(hashes)) == 30**3


def test_certain_and_impossible_strands() -> None:
    assert Augmentation(reverse_complement=1).draw(0, 0, np.arange(1000))[0].all()
    assert not Augmentation(reverse_complement=0).draw(0, 0, np.arange(1000))[0].any()


def test_the_largest_shift_is_reached_and_not_passed() -> None:
    _, shifts = Augmentation(max_shift=2).draw(0, 0, np.arange(1000))
    assert (shifts.min(), shifts.max()) == (-2, 2)
    _, shifts = Augmentation(max_shift=2**31 - 1).draw(0, 0, np.arange(1000))
    assert np.abs(shifts).max() < 2**31


@pytest.mark.parametrize(
    "arguments", [{"reverse_complement": 1.5}, {"reverse_complement": -0.1}, {"max_shift": -1}]
)
def test_impossible_augmentation_is_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Augmentation(**arguments)
