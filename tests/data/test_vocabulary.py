"""The DNA vocabulary is HyenaDNA's, and the reverse complement is the biologist's."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from bioaudio_data.vocabulary import DNA, SOFT_MASK_BIT
from hypothesis import given
from hypothesis import strategies as st

dna = st.text("ACGTN", max_size=200)


def test_ids_are_those_of_hyenadna() -> None:
    assert {token: i for i, token in enumerate(DNA.tokens)} == {
        "[CLS]": 0,
        "[SEP]": 1,
        "[BOS]": 2,
        "[MASK]": 3,
        "[PAD]": 4,
        "[RESERVED]": 5,
        "[UNK]": 6,
        "A": 7,
        "C": 8,
        "G": 9,
        "T": 10,
        "N": 11,
    }
    assert (DNA.PAD, DNA.UNK, DNA.A, DNA.C, DNA.G, DNA.T, DNA.N) == (4, 6, 7, 8, 9, 10, 11)
    assert (DNA.size, DNA.padded_size) == (12, 16)


@given(dna)
def test_decode_inverts_encode_in_either_case(letters: str) -> None:
    assert DNA.decode(DNA.encode(letters)) == letters
    assert np.array_equal(DNA.encode(letters.lower().encode()), DNA.encode(letters))


def test_other_letters_become_unknown_tokens() -> None:
    assert DNA.decode(DNA.encode("AR-é")) == "A[UNK][UNK][UNK]"
    assert DNA.decode(np.array([DNA.PAD, DNA.A])) == "[PAD]A"


@pytest.mark.parametrize("bad", [-1, 12, DNA.A | SOFT_MASK_BIT])
def test_decode_refuses_what_is_no_token(bad: int) -> None:
    with pytest.raises(ValueError, match=r"0\.\.11"):
        DNA.decode(np.array([DNA.A, bad]))


def test_reverse_complement_reads_the_other_strand() -> None:
    assert DNA.decode(DNA.reverse_complement(DNA.encode("AACGN"))) == "NCGTT"


@given(dna)
def test_reverse_complement_is_its_own_inverse(letters: str) -> None:
    ids = DNA.encode(letters) | (np.arange(len(letters)) % 2 * SOFT_MASK_BIT).astype(np.uint8)
    opposite = DNA.reverse_complement(ids)
    assert np.array_equal(DNA.reverse_complement(opposite), ids)
    assert np.array_equal(opposite[::-1] & SOFT_MASK_BIT, ids & SOFT_MASK_BIT)


def test_special_tokens_are_their_own_complement() -> None:
    assert np.array_equal(DNA.complement[: DNA.A], np.arange(DNA.A))
    assert DNA.complement[DNA.N] == DNA.N


def test_fingerprint_tells_vocabularies_apart() -> None:
    other = dataclasses.replace(DNA, tokens=(*DNA.tokens[:-1], "X"))
    assert other.fingerprint() != DNA.fingerprint() == DNA.to_dict()["fingerprint"]
    assert pickle.loads(pickle.dumps(DNA)) == DNA
