"""Codes are those of the definition, on every array type, and stand for what they were made from."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from bioaudio_data.audio import Quantiser
from bioaudio_data.audio.quantiser import Law, Scale
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

EVERY_INT16 = np.arange(-32768, 32768, dtype=np.int32).astype(np.float32) / 32768
LAWS, SCALES = get_args(Law), get_args(Scale)
ALL = [
    Quantiser(law=law, scale=scale, bits=bits)
    for law, scale, bits in itertools.product(LAWS, SCALES, (2, 8, 12))
]


def speech_like(length: int = 4000) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return (rng.laplace(size=length) * 0.1 * np.sin(np.arange(length) * 0.05)).clip(-1, 1).astype(np.float32)


def span_for(quantiser: Quantiser, x: NDArray[np.float32]) -> tuple[float, float] | None:
    return (float(x.min()), float(x.max())) if quantiser.scale == "file" else None


def companded(quantiser: Quantiser, y: NDArray[np.float64]) -> NDArray[np.float64]:
    mu = quantiser.codes - 1
    return y if quantiser.law == "linear" else np.sign(y) * np.log1p(mu * np.abs(y)) / math.log1p(mu)


@pytest.mark.parametrize(
    ("law", "codes"),
    [
        ("mu-law", [0, 15, 52, 122, 127, 128, 128, 133, 203, 240, 255, 255]),
        ("linear", [0, 64, 115, 127, 127, 128, 128, 128, 140, 192, 255, 255]),
    ],
)
def test_absolute_codes_are_golden(law: Law, codes: list[int]) -> None:
    samples = np.array([-1, -0.5, -0.1, -0.001, -1e-7, 0, 1e-7, 0.001, 0.1, 0.5, 1, 1.5], np.float32)
    assert Quantiser(law=law, scale="absolute").encode(samples).tolist() == codes


def test_a_scaled_chunk_is_golden() -> None:
    chunk = np.array([-0.25, -0.125, 0.0, 0.25, 0.75], np.float32)
    quantiser = Quantiser(scale="chunk")
    codes = [0, 6, 15, 128, 255]
    assert quantiser.encode(chunk).tolist() == codes
    assert replace(quantiser, scale="file").encode(chunk[1:4], (-0.25, 0.75)).tolist() == codes[1:4]
    decoded = quantiser.decode(np.array(codes, np.uint8), (-0.25, 0.75))
    np.testing.assert_allclose(decoded, [-0.23924, -0.12681, -0.00452, 0.25004, 0.73924], atol=1e-5)


@pytest.mark.parametrize("quantiser", ALL, ids=str)
def test_codes_are_those_of_the_definition(quantiser: Quantiser) -> None:
    x = speech_like()
    low, high = (-1.0, 1.0) if quantiser.scale == "absolute" else (float(x.min()), float(x.max()))
    c = companded(quantiser, 2 * (x.astype(np.float64) - low) / (high - low) - 1)
    expected = np.clip(np.floor((c + 1) / 2 * quantiser.codes), 0, quantiser.codes - 1)
    codes = quantiser.encode(x, span_for(quantiser, x))
    assert codes.dtype == (np.uint8 if quantiser.bits <= 8 else np.int32)
    differ = np.flatnonzero(codes != expected)
    # Scaling is in float32: a sample within its rounding of an edge may fall to the other side.
    to_edge = np.abs((c + 1) / 2 * quantiser.codes - np.rint((c + 1) / 2 * quantiser.codes))
    assert (to_edge[differ] < 1e-3).all()
    assert len(differ) <= 2


@pytest.mark.parametrize("quantiser", ALL, ids=str)
def test_decoding_stays_within_the_cell(quantiser: Quantiser) -> None:
    x = speech_like()
    span = span_for(quantiser, x) or ((x.min(), x.max()) if quantiser.scale == "chunk" else (-1.0, 1.0))
    half = (float(span[1]) - float(span[0])) / 2
    error = np.abs(quantiser.decode(quantiser.encode(x, span_for(quantiser, x)), span) - x) / half
    y = np.abs((x - float(span[0])) / half - 1)
    mu = quantiser.codes - 1
    relative = (1 + mu) ** (1 / quantiser.codes) - 1
    bound = 1 / quantiser.codes if quantiser.law == "linear" else relative * (y + 1 / mu)
    assert (error <= bound + 1e-6).all()


@given(st.sampled_from(LAWS), st.integers(2, 12), st.sampled_from(["numpy", "torch"]))
def test_encoding_what_was_decoded_changes_nothing(law: Law, bits: int, kind: str) -> None:
    quantiser = Quantiser(law=law, scale="absolute", bits=bits)
    codes = np.arange(quantiser.codes)
    if kind == "numpy":
        assert np.array_equal(quantiser.encode(quantiser.decode(codes)), codes)
    else:
        assert quantiser.encode(quantiser.decode(torch.from_numpy(codes))).tolist() == codes.tolist()


@pytest.mark.parametrize("quantiser", ALL, ids=str)
def test_numpy_and_torch_agree_to_the_bit(quantiser: Quantiser) -> None:
    x = EVERY_INT16.reshape(4, -1)
    span = (x.min(-1, keepdims=True), x.max(-1, keepdims=True)) if quantiser.scale == "file" else None
    codes = quantiser.encode(x, span)
    tensors = quantiser.encode(torch.from_numpy(x), span)
    assert tensors.dtype == (torch.uint8 if quantiser.bits <= 8 else torch.int32)
    assert np.array_equal(codes, tensors.numpy())
    decoded = quantiser.decode(codes, span)
    assert decoded.dtype == np.float32
    assert np.array_equal(decoded, quantiser.decode(tensors, span).numpy())


@pytest.mark.parametrize("quantiser", ALL, ids=str)
def test_what_does_not_vary_is_the_code_of_zero(quantiser: Quantiser) -> None:
    codes = quantiser.encode(np.zeros(5, np.float32), (0.0, 0.0) if quantiser.scale == "file" else None)
    assert codes.tolist() == [quantiser.zero] * 5
    assert abs(float(quantiser.decode(codes)[0])) <= 1 / quantiser.codes


def test_chunks_are_scaled_each_for_itself() -> None:
    x = speech_like().reshape(2, -1)
    quantiser = Quantiser(scale="chunk")
    assert np.array_equal(quantiser.encode(x), np.stack([quantiser.encode(row) for row in x]))


def test_published_codes_are_ours_but_for_one_sample_in_hundreds() -> None:
    """S4's public code: shrunk cells, rounded down, of a chunk scaled to -1 .. 1."""
    x = speech_like(100_000).astype(np.float64)
    y = 2 * (x - x.min()) / (x.max() - x.min() + 1e-6) - 1
    u = (companded(Quantiser(), y) + 1) / 2
    published = np.floor(u * (256 - 0.01) + 0.005)
    difference = np.abs(Quantiser(scale="chunk").encode(x.astype(np.float32)).astype(int) - published)
    assert difference.max() == 1
    assert difference.mean() < 1 / 200


def test_torchaudio_rounds_and_so_differs() -> None:
    published = np.floor((companded(Quantiser(), EVERY_INT16.astype(np.float64)) + 1) / 2 * 255 + 0.5)
    difference = np.abs(Quantiser(scale="absolute").encode(EVERY_INT16).astype(int) - published)
    assert difference.max() == 1
    assert difference.mean() > 0.3


def test_a_quantiser_is_a_value() -> None:
    for quantiser in ALL:
        assert Quantiser(**quantiser.to_dict()) == quantiser
    assert len({*ALL, *(replace(quantiser) for quantiser in ALL)}) == len(ALL)
    assert str(Quantiser()) == "8-bit mu-law per file"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"law": "a-law"}, "quantiser.law must be one of mu-law, linear; got 'a-law'"),
        ({"scale": "batch"}, "quantiser.scale must be one of absolute, file, chunk; got 'batch'"),
        ({"bits": 1}, "quantiser.bits must be 2 to 16, got 1"),
    ],
)
def test_unknown_quantisers_are_refused(values: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Quantiser(**values)  # pyright: ignore[reportArgumentType]


def test_bad_samples_and_codes_are_refused() -> None:
    x = np.array([0.0, np.nan], np.float32)
    with pytest.raises(ValueError, match="must be numbers, got NaN"):
        Quantiser(scale="absolute").encode(x)
    with pytest.raises(ValueError, match="span goes with scale file"):
        Quantiser(scale="file").encode(x[:1])
    with pytest.raises(ValueError, match="span goes with scale file"):
        Quantiser(scale="chunk").encode(x[:1], (0, 1))
    with pytest.raises(ValueError, match=r"codes must lie in 0 \.\. 255, got 3 \.\. 256"):
        Quantiser().decode(np.array([3, 256]))
    with pytest.raises(ValueError, match="takes a numpy array or a torch tensor, got list"):
        Quantiser(scale="absolute").encode([0.0])  # pyright: ignore[reportCallIssue, reportArgumentType]
