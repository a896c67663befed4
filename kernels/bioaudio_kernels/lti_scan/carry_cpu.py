"""The carry over chunks, compiled for the CPU by numba. A task is one channel of one sequence."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor

from bioaudio_kernels.compiled import kernel, run_tasks
from bioaudio_kernels.flat import empty_float32, flat, flat_rows
from bioaudio_kernels.lane_math import load_some, store_some
from bioaudio_kernels.simd import LANES, fma, splat

_ZERO = np.float32(0)


def carry_cpu(
    sums: Float[Tensor, "d_inner columns rows"],
    advance: Float[Tensor, "d_inner rows"],
    start: Float[Tensor, "d_inner batch rows"],
    entering: Float[Tensor, "d_inner columns rows"],
    is_complex: bool,
) -> Float[Tensor, "d_inner batch rows"]:
    """See `carry.carry`; float32."""
    end = empty_float32(*start.shape)
    written, (_, width) = flat_rows(entering)
    arrays = (flat(sums), flat(advance), flat(start), written, flat(end))
    run_tasks(_carry, _tasks(start), sums.numel(), _sizes(sums, start, width, is_complex), arrays)
    return end


def carry_back_cpu(
    sums: Float[Tensor, "d_inner columns rows"],
    advance: Float[Tensor, "d_inner rows"],
    d_end: Float[Tensor, "d_inner batch rows"],
    entering: Float[Tensor, "d_inner columns rows"],
    leaving: Float[Tensor, "d_inner columns rows"],
    is_complex: bool,
) -> tuple[Float[Tensor, "d_inner batch rows"], Float[Tensor, "d_inner rows"]]:
    """See `carry.carry_back`; float32; `entering` and `leaving` parts of rows equally wide."""
    first, d_advance = empty_float32(*d_end.shape), empty_float32(*d_end.shape)
    (read, (_, width)), (written, _) = flat_rows(entering), flat_rows(leaving)
    arrays = (flat(sums), flat(advance), flat(d_end), read, written, flat(first), flat(d_advance))
    run_tasks(_carry_back, _tasks(d_end), sums.numel(), _sizes(sums, d_end, width, is_complex), arrays)
    return first, d_advance.sum(1)


def _tasks(start: Tensor) -> int:
    return start.shape[0] * start.shape[1]


def _sizes(sums: Tensor, start: Tensor, width: int, is_complex: bool) -> tuple[int, int, int, int, bool]:
    """(batch, chunks, d_state, numbers from a chunk's state to the next chunk's, is_complex)."""
    _, batch, rows = start.shape
    return batch, sums.shape[1] // batch, rows // 2 if is_complex else rows, width, is_complex


@kernel
def _carry(first_task, last_task, sizes, arrays):
    """Write `entering` and `end` for tasks first_task to last_task - 1; arrays as `carry_cpu` lists them."""
    batch, chunks, d_state, width, is_complex = sizes
    sums, advance, start, entering, end = arrays
    rows = 2 * d_state if is_complex else d_state
    for task in range(first_task, last_task):
        decay, edge = task // batch * rows, task * rows
        for n in range(0, d_state, LANES):
            lanes = d_state - n
            a_re, h_re = load_some(advance, decay + n, lanes), load_some(start, edge + n, lanes)
            if is_complex:
                a_im = load_some(advance, decay + d_state + n, lanes)
                h_im = load_some(start, edge + d_state + n, lanes)
                for chunk in range(chunks):
                    at, into = (task * chunks + chunk) * rows + n, (task * chunks + chunk) * width + n
                    s_re = load_some(sums, at, lanes)
                    s_im = load_some(sums, at + d_state, lanes)
                    store_some(entering, into, h_re, lanes)
                    store_some(entering, into + d_state, h_im, lanes)
                    s_re = fma(a_re, h_re, s_re - a_im * h_im)
                    h_im = fma(a_re, h_im, fma(a_im, h_re, s_im))
                    h_re = s_re
                store_some(end, edge + d_state + n, h_im, lanes)
            else:
                for chunk in range(chunks):
                    at, into = (task * chunks + chunk) * rows + n, (task * chunks + chunk) * width + n
                    s_re = load_some(sums, at, lanes)
                    store_some(entering, into, h_re, lanes)
                    h_re = fma(a_re, h_re, s_re)
            store_some(end, edge + n, h_re, lanes)


@kernel
def _carry_back(first_task, last_task, sizes, arrays):
    """Write `leaving`, `first` and a task's share of the gradient of `advance`, as `_carry` does."""
    batch, chunks, d_state, width, is_complex = sizes
    sums, advance, start, entering, leaving, first, d_advance = arrays
    rows = 2 * d_state if is_complex else d_state
    for task in range(first_task, last_task):
        decay, edge = task // batch * rows, task * rows
        for n in range(0, d_state, LANES):
            lanes = d_state - n
            a_re, g_re = load_some(advance, decay + n, lanes), load_some(start, edge + n, lanes)
            d_re = splat(_ZERO)
            if is_complex:
                a_im = load_some(advance, decay + d_state + n, lanes)
                g_im = load_some(start, edge + d_state + n, lanes)
                d_im = splat(_ZERO)
                for chunk in range(chunks - 1, -1, -1):
                    at, into = (task * chunks + chunk) * rows + n, (task * chunks + chunk) * width + n
                    s_re = load_some(sums, at, lanes)
                    s_im = load_some(sums, at + d_state, lanes)
                    h_re = load_some(entering, into, lanes)
                    h_im = load_some(entering, into + d_state, lanes)
                    store_some(leaving, into, g_re, lanes)
                    store_some(leaving, into + d_state, g_im, lanes)
                    d_re = fma(h_re, g_re, fma(h_im, g_im, d_re))
                    d_im = fma(h_re, g_im, d_im - h_im * g_re)
                    s_re = fma(a_re, g_re, fma(a_im, g_im, s_re))
                    g_im = fma(a_re, g_im, s_im - a_im * g_re)
                    g_re = s_re
                store_some(first, edge + d_state + n, g_im, lanes)
                store_some(d_advance, edge + d_state + n, d_im, lanes)
            else:
                for chunk in range(chunks - 1, -1, -1):
                    at, into = (task * chunks + chunk) * rows + n, (task * chunks + chunk) * width + n
                    s_re = load_some(sums, at, lanes)
                    store_some(leaving, into, g_re, lanes)
                    d_re = fma(load_some(entering, into, lanes), g_re, d_re)
                    g_re = fma(a_re, g_re, s_re)
            store_some(first, edge + n, g_re, lanes)
            store_some(d_advance, edge + n, d_re, lanes)
