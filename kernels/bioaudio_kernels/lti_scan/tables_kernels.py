# type: ignore  (Triton's language is not Python: pyright cannot type it)
"""The tables of a chunk, and the gradients of the system from theirs, as Triton kernels.

Letters as in `tables`; a number k of steps, a state n. A real system is a complex one whose imaginary parts
are zero and lie nowhere. Exponentials are taken in float64, as in `tables.powers`.
"""

from __future__ import annotations

import triton.language as tl

from bioaudio_kernels.lti_scan.complex_states import load_states, store_states
from bioaudio_kernels.triton_jit import jit


@jit
def _powers(log_decay, k, n, d_state, COMPLEX: tl.constexpr):
    """exp(k log_decay), (k, n)."""
    re, im = load_states(log_decay, n, d_state, COMPLEX)
    steps = k.to(tl.float64)[:, None]
    size, phase = tl.exp(steps * re.to(tl.float64)), steps * im.to(tl.float64)
    return (size * tl.cos(phase)).to(tl.float32), (size * tl.sin(phase)).to(tl.float32)


@jit(do_not_specialize=["chunk", "rest"])
def tables_kernel(
    log_decay, B, C, D, onward, back, advance, advance_rest, d_state, chunk, rest,
    COMPLEX: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Grid: (tiles of k from 0 to chunk, d_inner); D may be None."""
    channel = tl.program_id(1).to(tl.int64)
    rows = 2 * d_state if COMPLEX else d_state
    system = channel * rows
    k, n = tl.program_id(0) * STEPS + tl.arange(0, STEPS), tl.arange(0, BLOCK)
    w_re, w_im = _powers(log_decay + system, k, n, d_state, COMPLEX)
    b_re, b_im = load_states(B + system, n, d_state, COMPLEX)
    c_re, c_im = load_states(C + system, n, d_state, COMPLEX)
    twice = 2.0 if COMPLEX else 1.0
    onward += channel * (rows + chunk) * chunk
    back += channel * (rows + chunk) * chunk

    emit_re = twice * (w_re * c_re - w_im * c_im)
    emit_im = -twice * (w_re * c_im + w_im * c_re)
    emits = ((k > 0) & (k <= chunk))[:, None] & (n < d_state)
    to_emit = onward + n * chunk + (k - 1)[:, None]
    tl.store(to_emit, emit_re, mask=emits)
    tl.store(to_emit + d_state * chunk, emit_im, mask=emits & COMPLEX)

    injects = (k < chunk)[:, None] & (n < d_state)
    to_inject = back + (chunk + n) * chunk + (chunk - 1 - k)[:, None]
    tl.store(to_inject, w_re * b_re - w_im * b_im, mask=injects)
    tl.store(to_inject + d_state * chunk, w_re * b_im + w_im * b_re, mask=injects & COMPLEX)

    edge = system + n + (k * 0)[:, None]
    last = (k == chunk)[:, None] & (n < d_state)
    tl.store(advance + edge, w_re, mask=last)
    tl.store(advance + edge + d_state, w_im, mask=last & COMPLEX)
    last = (k == rest)[:, None] & (n < d_state)
    tl.store(advance_rest + edge, w_re, mask=last)
    tl.store(advance_rest + edge + d_state, w_im, mask=last & COMPLEX)

    taps = tl.sum(b_re * emit_re + b_im * emit_im, 1)
    if D is not None:
        taps += tl.where(k == 0, tl.load(D + channel), 0.0)
    for first in range(0, chunk, ROWS):
        row = (first + tl.arange(0, ROWS))[:, None]
        mask = (row < chunk) & (k < chunk)
        ahead, behind = row + k, row - k
        column = ahead - tl.where(ahead < chunk, 0, chunk)
        tl.store(onward + (rows + row) * chunk + column, tl.where(ahead < chunk, taps, 0.0), mask=mask)
        column = behind + tl.where(behind < 0, chunk, 0)
        tl.store(back + row * chunk + column, tl.where(behind < 0, 0.0, taps), mask=mask)


@jit(do_not_specialize=["chunk", "rest"])
def tables_back_kernel(
    d_onward, d_inject, d_advance, d_advance_rest, log_decay, B, C, d_log_decay, d_B, d_C, d_D,
    d_state, chunk, rest,
    COMPLEX: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Grid: (d_inner,); d_advance_rest may be None. Conjugates are summed, as `tables` does."""
    channel, n = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    rows = 2 * d_state if COMPLEX else d_state
    system = channel * rows
    b_re, b_im = load_states(B + system, n, d_state, COMPLEX)
    c_re, c_im = load_states(C + system, n, d_state, COMPLEX)
    twice = 2.0 if COMPLEX else 1.0
    d_onward += channel * (rows + chunk) * chunk
    d_inject += channel * rows * chunk
    db_re, db_im = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    dc_re, dc_im = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    dl_re, dl_im = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for first in range(0, chunk + 1, STEPS):
        k = first + tl.arange(0, STEPS)
        # Of k beyond the chunk there is no gradient; those of a growing state could be infinite.
        w_re, w_im = _powers(log_decay + system, tl.where(k <= chunk, k, 0), n, d_state, COMPLEX)
        d_taps = tl.zeros([STEPS], tl.float32)
        for top in range(0, chunk, ROWS):
            row = (top + tl.arange(0, ROWS))[:, None]
            place = d_onward + (rows + row) * chunk + row + k
            d_taps += tl.sum(tl.load(place, mask=row + k < chunk, other=0.0), 0)
        if first == 0:
            tl.store(d_D + channel + k, d_taps, mask=k == 0)
        d_taps = twice * d_taps[:, None]

        exists = ((k > 0) & (k <= chunk))[:, None] & (n < d_state)
        of_emit = d_onward + n * chunk + (k - 1)[:, None]
        g_re = twice * tl.load(of_emit, mask=exists, other=0.0)
        g_im = twice * tl.load(of_emit + d_state * chunk, mask=exists & COMPLEX, other=0.0)
        g_re, g_im = g_re + d_taps * b_re, g_im + d_taps * b_im
        dc_re += tl.sum(w_re * g_re - w_im * g_im, 0)
        dc_im += tl.sum(w_re * g_im + w_im * g_re, 0)
        all_re, all_im = c_re * g_re - c_im * g_im, c_re * g_im + c_im * g_re

        exists = (k < chunk)[:, None] & (n < d_state)
        of_inject = d_inject + n * chunk + (chunk - 1 - k)[:, None]
        g_re = tl.load(of_inject, mask=exists, other=0.0)
        g_im = -tl.load(of_inject + d_state * chunk, mask=exists & COMPLEX, other=0.0)
        all_re, all_im = all_re + b_re * g_re - b_im * g_im, all_im + b_re * g_im + b_im * g_re
        g_re, g_im = g_re + d_taps * c_re, g_im + d_taps * c_im
        db_re += tl.sum(w_re * g_re - w_im * g_im, 0)
        db_im += tl.sum(w_re * g_im + w_im * g_re, 0)

        exists = (k == chunk)[:, None] & (n < d_state)
        edge = system + n + (k * 0)[:, None]
        all_re += tl.load(d_advance + edge, mask=exists, other=0.0)
        all_im -= tl.load(d_advance + edge + d_state, mask=exists & COMPLEX, other=0.0)
        if d_advance_rest is not None:
            exists = (k == rest)[:, None] & (n < d_state)
            all_re += tl.load(d_advance_rest + edge, mask=exists, other=0.0)
            all_im -= tl.load(d_advance_rest + edge + d_state, mask=exists & COMPLEX, other=0.0)
        steps = k.to(tl.float32)[:, None]
        dl_re += tl.sum(steps * (w_re * all_re - w_im * all_im), 0)
        dl_im += tl.sum(steps * (w_re * all_im + w_im * all_re), 0)
    store_states(d_log_decay + system, dl_re, -dl_im, n, d_state, COMPLEX)
    store_states(d_B + system, db_re, -db_im, n, d_state, COMPLEX)
    store_states(d_C + system, dc_re, -dc_im, n, d_state, COMPLEX)
