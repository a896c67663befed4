# type: ignore  (Triton's language is not Python: pyright cannot type it)
# ruff: noqa: RUF005  (and it has no unpacking)
"""Kernels between and after those over time: the scan over chunks, and sums of rows over channel blocks."""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.selective_scan.triton_lanes import load_numbers, load_rates, locate_chunk
from bioaudio_kernels.selective_scan.triton_math import number_decay, number_product, number_sum
from bioaudio_kernels.triton_jit import jit
from bioaudio_kernels.triton_vectors import load_lanes


@jit(do_not_specialize=["n_chunks", "chunk_0", "chunks"])
def chunk_scan_kernel(
    p_states, p_sigma, p_A, s_A, p_start, s_start, p_end, p_first, n_chunks, chunk_0, chunks, d_inner,
    N: tl.constexpr, PARTS: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, BACKWARDS: tl.constexpr,
):  # fmt: skip
    """Replace each chunk's own contribution by what enters it: carry <- exp(A sigma) carry + own.

    Goes through the chunks of every sequence in order, or from its last to its first with BACKWARDS
    (adjoints), as far as they lie in [chunk_0, chunk_0 + chunks), of which p_states and p_sigma are the rows.
    Starts from `start` (None: zeros); what leaves the last goes to `end` (sequences, N, PARTS, d_inner) if
    that is there. Chunks of sequence i: from `first[i]` to `first[i + 1]`, or n_chunks for each without that
    table. Grid: (channel blocks * N * sequences,). ROWS chunks are loaded at a time, so that the latency of
    memory is paid once for all of them.
    """
    n_blocks_d = tl.cdiv(d_inner, BLOCK_D)
    pid = tl.program_id(0)
    d = ((pid % n_blocks_d) * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    n = (pid // n_blocks_d) % N
    sequence = (pid // n_blocks_d // N).to(tl.int64)
    if p_first is None:
        low, high = sequence * n_chunks, (sequence + 1) * n_chunks
    else:
        low, high = tl.load(p_first + sequence), tl.load(p_first + sequence + 1)
    low, high = tl.maximum(low, chunk_0) - chunk_0, tl.minimum(high, chunk_0 + chunks) - chunk_0
    count = (high - low).to(tl.int32)
    mask = d < d_inner
    rate = load_rates(p_A, s_A, d, n, (mask,), PARTS)[0]
    if p_start is None:
        carry = ()
        for _ in tl.static_range(PARTS):
            carry = carry + (tl.zeros([BLOCK_D], tl.float32),)
    else:
        start = p_start + sequence * s_start[0] + d * s_start[1] + n * PARTS * s_start[2]
        carry = load_numbers(start, s_start[2], (mask,), PARTS)[0]
    row = tl.cast(d_inner, tl.int64) * (-1 if BACKWARDS else 1)
    first = high - 1 if BACKWARDS else low
    p_sigma += first * d_inner + d
    p_states += (first * N + n) * PARTS * d_inner + d
    for i in range(0, count, ROWS):
        own = ()
        sigma = ()
        for r in tl.static_range(ROWS):
            exists = d < tl.where(i + r < count, d_inner, 0)
            own = own + (load_numbers(p_states + r * row * N * PARTS, d_inner, (exists,), PARTS)[0],)
            sigma = sigma + (load_lanes(p_sigma + r * row, exists),)
        for r in tl.static_range(ROWS):
            exists = d < tl.where(i + r < count, d_inner, 0)
            for part in tl.static_range(PARTS):
                tl.store(p_states + r * row * N * PARTS + part * d_inner, carry[part], mask=exists)
            # Past the end own and sigma are 0: the carry stays.
            carry = number_sum(number_product(number_decay(sigma[r], rate), carry), own[r])
        p_states += ROWS * row * N * PARTS
        p_sigma += ROWS * row
    if p_end is not None:
        for part in tl.static_range(PARTS):
            tl.store(p_end + ((sequence * N + n) * PARTS + part) * d_inner + d, carry[part], mask=mask)


@jit(do_not_specialize=["chunk_0", "chunks", "n_chunks", "chunk", "length", "blocks"])
def sum_rows_kernel(
    p_rows, p_out, s_out, p_chunks, chunk_0, chunks, n_chunks, chunk, length, blocks,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr,
    REVERSE: tl.constexpr,
):  # fmt: skip
    """Gradient of B or C: the sum over the channel blocks of a group of their rows, conjugated.

    Reads rows (groups * blocks, chunks, chunk, WIDTH), writes out (batch, length, groups, WIDTH) with strides
    s_out at the chunks from chunk_0 on. Grid: (row blocks of a chunk * chunks, groups). COLUMNS is WIDTH
    rounded up to a power of two.
    """
    tiles = tl.cdiv(chunk, ROWS)
    i_c = (tl.program_id(0) // tiles).to(tl.int64)
    group = tl.program_id(1).to(tl.int64)
    i_b, first, steps, _, _ = locate_chunk(p_chunks, chunk_0 + i_c, n_chunks, chunk, length, REVERSE)
    t = (tl.program_id(0) % tiles) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    mask = (t < steps) & (column < WIDTH)
    p_rows += ((group * blocks * chunks + i_c) * chunk + t) * WIDTH + column
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for _ in range(blocks):
        total += tl.load(p_rows, mask=mask, other=0.0)
        p_rows += tl.cast(chunks, tl.int64) * chunk * WIDTH
    if PARTS == 2:
        total = tl.where(column % 2 == 1, -total, total)
    time = first - t if REVERSE else first + t
    tl.store(
        p_out + i_b * s_out[0] + time * s_out[1] + group * s_out[2] + column * s_out[3], total, mask=mask
    )
