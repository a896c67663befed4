"""Which method runs, and how long a chunk is: fixed rules from the shapes, so that results repeat."""

from __future__ import annotations

from math import isqrt
from typing import Literal

from jaxtyping import Float, Inexact
from torch import Tensor

FFT_ROWS = 256
FFT_ROWS_OF_BATCH = 2048
SHORTEST_CHUNK, SHORTEST_CHUNK_CUDA = 8, 64
LONGEST_CHUNK = 128


def choose_chunk(x: Float[Tensor, "batch length d_inner"]) -> int:
    """Steps of a chunk: near the square root of half the steps of all sequences.

    Making the tables costs T numbers a state, and the chunks T multiplications a step: a balance. It is flat
    enough to take a T that divides the length, if there is one within a factor of two: a shorter last chunk
    is worked on by itself, in as many operations as all the others together. On a GPU the tables cost next
    to nothing, and T is the width of products, and divides the memory that states take.
    """
    batch, length, _ = x.shape
    balance = isqrt(batch * length // 2)
    shortest = SHORTEST_CHUNK_CUDA if x.device.type == "cuda" else SHORTEST_CHUNK
    chunk = min(max(1 << balance.bit_length() - 1 if balance else 1, shortest), LONGEST_CHUNK)
    for multiple in (16, 4):  # whole memory transactions, or at least loads of 16 bytes
        shorter, longer = (
            range(chunk, chunk // 2 - 1, -multiple),
            range(chunk + multiple, 2 * chunk, multiple),
        )
        for divisor in (*shorter, *longer):
            if length % divisor == 0:
                return divisor
    return chunk


def choose_method(
    x: Float[Tensor, "batch length d_inner"], log_decay: Inexact[Tensor, "d_inner d_state"]
) -> Literal["chunks", "fft"]:
    """The faster method for training.

    Chunks cost some 12 rows + 6 T multiplications a step and channel; the convolution 4 rows, 2 rows more for
    a kernel that all sequences share, and its transforms. Those run far below the speed of a matrix product,
    on a GPU so far that chunks always win.
    """
    rows = log_decay.shape[1] * (2 if log_decay.is_complex() else 1)
    many_states = rows >= FFT_ROWS and rows * x.shape[0] >= FFT_ROWS_OF_BATCH
    return "fft" if x.device.type == "cpu" and many_states else "chunks"
