# type: ignore  (Triton's language is not Python: pyright cannot type it)
# ruff: noqa: RUF005  (and it has no unpacking)
"""Where a program's data lie and how they get into registers early enough.

A program takes one block of channels (its lanes) through one chunk of time. What it reads at every step comes
from a *stream*: the pointers of the chunk's first step, the stride from step to step (negative when time runs
backwards), and from where and at which columns of a step `touch` fetches.

The kernels wait for memory, not for arithmetic, unless loads are issued long before their use. The assembler
moves loads towards their use, so every eight steps each stream is *touched*: one load instruction reads a
value of every sector of the next eight rows, which brings them into the first-level cache. What it reads goes
into a sum that is never stored, but that the compiler cannot leave out.

A touch is a branch, over which the assembler moves no instruction; elsewhere it puts a step's exponentials in
a row, where each takes a warp eight cycles. So the branch stands before the decays are known, in the reverse
sweep in the middle of them; in the forward sweep, which has no register left for that, at a step's start.
"""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.selective_scan.triton_math import TURNS
from bioaudio_kernels.triton_jit import jit
from bioaudio_kernels.triton_vectors import LOG2_E, load_lanes

TOUCHED = tl.constexpr(8)
"""Rows that one touch brings in, by four lanes each."""


@jit
def locate_chunk(p_chunks, i, n_chunks, chunk, length, REVERSE: tl.constexpr):
    """Chunk i as (row of the batch, first step, steps, sequence, whether it is its sequence's last).

    Without a table every row of the batch is a sequence of n_chunks chunks; see `triton_chunks` for the
    table of packed sequences.
    """
    if p_chunks is None:
        i_b = i // n_chunks
        start = (i % n_chunks) * chunk
        steps = tl.minimum(length - start, chunk).to(tl.int32)
        first = length - 1 - start if REVERSE else start
        return i_b, first, steps, i_b, i % n_chunks == n_chunks - 1
    else:
        row = p_chunks + 4 * i
        first, steps, sequence, last = tl.load(row), tl.load(row + 1), tl.load(row + 2), tl.load(row + 3)
        return i * 0, first, steps.to(tl.int32), sequence, last != 0


@jit
def block_of_channels(i_d, group_size, BLOCK_D: tl.constexpr):
    """Block i_d as (group, its first channel, its channels, one past the last channel of the group)."""
    blocks = tl.cdiv(group_size, BLOCK_D)
    group = i_d // blocks
    first = group * group_size + (i_d % blocks) * BLOCK_D
    return group, first, (first + tl.arange(0, BLOCK_D)).to(tl.int64), (group + 1) * group_size


@jit
def state_masks(mask, d, end, n_valid, NB: tl.constexpr, MASK_N: tl.constexpr):
    """For each of NB states its mask over channels: empty past the last state, else that of the channels."""
    masks = ()
    for n in tl.static_range(NB):
        masks = masks + ((d < tl.where(n < n_valid, end, 0)) if MASK_N else mask,)
    return masks


@jit
def load_numbers(p, stride, masks, PARTS: tl.constexpr):
    """For each mask a number over channels; numbers and their PARTS (real, imaginary) are `stride` apart."""
    numbers = ()
    for n in tl.static_range(len(masks)):
        number = ()
        for part in tl.static_range(PARTS):
            number = number + (load_lanes(p + (n * PARTS + part) * stride, masks[n]),)
        numbers = numbers + (number,)
    return numbers


@jit
def store_numbers(p, stride, numbers, masks):
    """The reverse of `load_numbers`."""
    for n in tl.static_range(len(masks)):
        for part in tl.static_range(len(numbers[n])):
            tl.store(p + (n * len(numbers[n]) + part) * stride, numbers[n][part], mask=masks[n])


@jit
def full_numbers(value, NB: tl.constexpr, PARTS: tl.constexpr, BLOCK_D: tl.constexpr):
    """NB real numbers over channels, all equal to `value`."""
    numbers = ()
    for _ in tl.static_range(NB):
        number = (tl.full([BLOCK_D], value, tl.float32),)
        if PARTS == 2:
            number = number + (tl.zeros([BLOCK_D], tl.float32),)
        numbers = numbers + (number,)
    return numbers


@jit
def load_rates(p_A, s_A, d, n0, masks, PARTS: tl.constexpr):
    """A so that decays cost least: the real part in base 2, the imaginary one in turns."""
    A = load_numbers(p_A + d * s_A[0] + n0 * PARTS * s_A[1], s_A[1], masks, PARTS)
    rates = ()
    for n in tl.static_range(len(masks)):
        rate = (A[n][0] * LOG2_E,)
        if PARTS == 2:
            rate = rate + (A[n][1] * TURNS,)
        rates = rates + (rate,)
    return rates


@jit
def open_lanes(p, s, i_b, first, d0, d, end, REVERSE: tl.constexpr, BLOCK_D: tl.constexpr):
    """The stream of a (batch, length, channels) tensor with strides s over the channels d; () for None."""
    if p is None:
        return ()
    else:
        stride = -s[1] if REVERSE else s[1]
        start = p + (i_b * s[0] + first * s[1])
        column = tl.minimum(tl.arange(0, 32) % 4 * (BLOCK_D // 4), end - 1 - d0)
        return start + d * s[2], stride, start + tl.cast(d0, tl.int64) * s[2], column * s[2]


@jit
def open_row(p, s, i_b, first, group, n0, n_valid, REVERSE: tl.constexpr, COUNT: tl.constexpr):
    """The stream of a (batch, length, groups, values) tensor: COUNT values from n0 on, the same in all lanes.

    Of these, n_valid exist.
    """
    stride = -s[1] if REVERSE else s[1]
    start = p + (i_b * s[0] + first * s[1] + group * s[2] + n0 * s[3])
    column = tl.minimum(tl.arange(0, 32) % 4 * (COUNT // 4), n_valid - 1)
    return start, stride, start, column * s[3]


@jit
def due(t):
    """Whether the next rows are to be touched at step t."""
    return tl.cast(t, tl.int32) % TOUCHED == 0


@jit
def touch(streams, t, steps):
    """Bring rows t to t + TOUCHED - 1 of each stream, where they exist, into the first-level cache."""
    row = t + tl.arange(0, 32) // 4
    touched = ()
    for i in tl.static_range(len(streams)):
        if len(streams[i]) > 0:
            _, stride, start, column = streams[i]
            touched = touched + (tl.load(start + (row * stride + column), mask=row < steps, other=0.0),)
    return touched


@jit
def absorb(sink, touched):
    """Use what was touched, so that the loads are not left out."""
    for i in tl.static_range(len(touched)):
        sink = tl.maximum(sink, touched[i].to(tl.float32))
    return sink


@jit
def pour(p, sink, steps):
    """Store the sink where it never happens."""
    tl.store(p + tl.arange(0, 32), sink, mask=tl.arange(0, 32) < -steps)


@jit
def fetch_lanes(stream, t, mask):
    """The step t of a stream, in its own dtype."""
    return tl.load(stream[0] + t * stream[1], mask=mask, other=0.0)


@jit
def fetch_row(stream, t, stride_n, n_valid, COUNT: tl.constexpr, PACK: tl.constexpr, MASK_N: tl.constexpr):
    """COUNT neighbouring values of step t as they lie in memory, for `unpack_row` to read.

    Every lane loads the same address. With PACK > 1 values come PACK at a time in 64-bit words: as many
    conversions, but a quarter (16-bit types) or half (fp32) of the load instructions.
    """
    p_row = stream[0] + t * stream[1]
    row = ()
    if PACK == 1:
        for n in tl.static_range(COUNT):
            if MASK_N:
                row = row + (tl.load(p_row + n * stride_n, mask=n < n_valid, other=0.0),)
            else:
                row = row + (tl.load(p_row + n * stride_n),)
    else:
        p_word = p_row.to(tl.pointer_type(tl.int64))
        for i in tl.static_range(COUNT // PACK):
            row = row + (tl.load(p_word + i),)
    return row


@jit
def unpack_row(fetched, DTYPE: tl.constexpr, PACK: tl.constexpr):
    """The values that `fetch_row` fetched, as fp32 scalars."""
    row = ()
    for i in tl.static_range(len(fetched)):
        if PACK == 1:
            row = row + (fetched[i].to(tl.float32),)
        else:
            for half in tl.static_range(2):
                bits = (fetched[i] >> (32 * half)).to(tl.int32)
                if PACK == 2:
                    row = row + (bits.to(tl.float32, bitcast=True),)
                elif tl.bfloat16 == DTYPE:
                    row = row + ((bits << 16).to(tl.float32, bitcast=True),)
                    row = row + ((bits & -65536).to(tl.float32, bitcast=True),)
                else:
                    row = row + (bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32),)
                    row = row + ((bits >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32),)
    return row


@jit
def as_numbers(values, PARTS: tl.constexpr):
    """Values of a row as numbers: real ones, or pairs (real, imaginary)."""
    numbers = ()
    for n in tl.static_range(len(values) // PARTS):
        number = (values[n * PARTS],)
        if PARTS == 2:
            number = number + (values[2 * n + 1],)
        numbers = numbers + (number,)
    return numbers
