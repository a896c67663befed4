# type: ignore  (Triton's language is not Python: pyright cannot type it)
# ruff: noqa: RUF005  (and it has no unpacking)
"""The carry over chunks, forward and backward, as Triton kernels.

Lanes are numbered [channel][sequence][state]; the numbers of a state lie d_state apart if it is complex.
"""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.triton_jit import jit


@jit
def _places(batch, chunks, d_state, width, BLOCK: tl.constexpr, COMPLEX: tl.constexpr):
    """Of a program's lanes: their numbers; where each one's decay, edge state, first sum and state lie."""
    lane = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    sequence, n = lane // d_state, lane % d_state
    rows = 2 * d_state if COMPLEX else d_state
    first = sequence * chunks
    return lane, sequence // batch * rows + n, sequence * rows + n, first * rows + n, first * width + n


@jit(do_not_specialize=["lanes", "batch", "chunks", "d_state", "width"])
def carry_kernel(
    sums, advance, start, entering, end, lanes, batch, chunks, d_state, width,
    COMPLEX: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """entering[c] = h, then h = advance * h + sums[c], from `start` to `end`."""
    lane, decay, edge, at, place = _places(batch, chunks, d_state, width, BLOCK, COMPLEX)
    mask = lane < lanes
    rows = 2 * d_state if COMPLEX else d_state
    a_re = tl.load(advance + decay, mask=mask)
    h_re = tl.load(start + edge, mask=mask)
    if COMPLEX:
        a_im = tl.load(advance + decay + d_state, mask=mask)
        h_im = tl.load(start + edge + d_state, mask=mask)
    for group in range(0, chunks, UNROLL):
        s_re, s_im = (), ()
        for u in tl.static_range(UNROLL):
            exists = lane < tl.where(group + u < chunks, lanes, 0)
            s_re = s_re + (tl.load(sums + at + u * rows, mask=exists),)
            if COMPLEX:
                s_im = s_im + (tl.load(sums + at + u * rows + d_state, mask=exists),)
        for u in tl.static_range(UNROLL):
            exists = lane < tl.where(group + u < chunks, lanes, 0)
            tl.store(entering + place + u * width, h_re, mask=exists)
            if COMPLEX:
                tl.store(entering + place + u * width + d_state, h_im, mask=exists)
                new_re = a_re * h_re + (s_re[u] - a_im * h_im)
                new_im = a_re * h_im + (s_im[u] + a_im * h_re)
                h_im = tl.where(exists, new_im, h_im)
            else:
                new_re = a_re * h_re + s_re[u]
            h_re = tl.where(exists, new_re, h_re)
        at += UNROLL * rows
        place += UNROLL * width
    tl.store(end + edge, h_re, mask=mask)
    if COMPLEX:
        tl.store(end + edge + d_state, h_im, mask=mask)


@jit(do_not_specialize=["lanes", "batch", "chunks", "d_state", "width"])
def carry_back_kernel(
    sums, advance, start, entering, leaving, first, d_advance, lanes, batch, chunks, d_state, width,
    COMPLEX: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """leaving[c] = g, then g = conj(advance) * g + sums[c], backwards; d_advance = sum_c conj(entering) g."""
    lane, decay, edge, at, place = _places(batch, chunks, d_state, width, BLOCK, COMPLEX)
    mask = lane < lanes
    rows = 2 * d_state if COMPLEX else d_state
    a_re = tl.load(advance + decay, mask=mask)
    g_re = tl.load(start + edge, mask=mask)
    d_re = tl.zeros([BLOCK], tl.float32)
    if COMPLEX:
        a_im = tl.load(advance + decay + d_state, mask=mask)
        g_im = tl.load(start + edge + d_state, mask=mask)
        d_im = tl.zeros([BLOCK], tl.float32)
    at += (chunks - 1).to(tl.int64) * rows
    place += (chunks - 1).to(tl.int64) * width
    for group in range(0, chunks, UNROLL):
        s_re, s_im, h_re, h_im = (), (), (), ()
        for u in tl.static_range(UNROLL):
            exists = lane < tl.where(group + u < chunks, lanes, 0)
            s_re = s_re + (tl.load(sums + at - u * rows, mask=exists),)
            h_re = h_re + (tl.load(entering + place - u * width, mask=exists, other=0.0),)
            if COMPLEX:
                s_im = s_im + (tl.load(sums + at - u * rows + d_state, mask=exists),)
                h_im = h_im + (tl.load(entering + place - u * width + d_state, mask=exists, other=0.0),)
        for u in tl.static_range(UNROLL):
            exists = lane < tl.where(group + u < chunks, lanes, 0)
            tl.store(leaving + place - u * width, g_re, mask=exists)
            if COMPLEX:
                tl.store(leaving + place - u * width + d_state, g_im, mask=exists)
                d_re += h_re[u] * g_re + h_im[u] * g_im
                d_im += h_re[u] * g_im - h_im[u] * g_re
                new_re = a_re * g_re + (s_re[u] + a_im * g_im)
                new_im = a_re * g_im + (s_im[u] - a_im * g_re)
                g_im = tl.where(exists, new_im, g_im)
            else:
                d_re += h_re[u] * g_re
                new_re = a_re * g_re + s_re[u]
            g_re = tl.where(exists, new_re, g_re)
        at -= UNROLL * rows
        place -= UNROLL * width
    tl.store(first + edge, g_re, mask=mask)
    tl.store(d_advance + edge, d_re, mask=mask)
    if COMPLEX:
        tl.store(first + edge + d_state, g_im, mask=mask)
        tl.store(d_advance + edge + d_state, d_im, mask=mask)
