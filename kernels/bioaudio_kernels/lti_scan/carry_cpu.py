"""The carry over chunks, compiled for the CPU by numba. A task is one channel of one sequence."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor

from bioaudio_kernels.compiled import kernel, run_tasks
from bioaudio_kernels.flat import empty_float32, flat
from bioaudio_kernels.lane_math import load_some, store_some
from bioaudio_kernels.simd import LANES, fma, splat

_ZERO = np.float32(0)


def carry_cpu(
    sums: Float[Tensor, "d_inner batch chunks rows"],
    advance: Float[Tensor, "d_inner rows"],
    start: Float[Tensor, "d_inner batch rows"],
    is_complex: bool,
) -> tuple[Float[Tensor, "d_inner batch chunks rows"], Float[Tensor, "d_inner batch rows"]]:
    """See `carry.carry`; float32."""
    entering, end = empty_float32(*sums.shape), empty_float32(*start.shape)
    arrays = (flat(sums), flat(advance), flat(start), flat(entering), flat(end))
    run_tasks(_carry, _tasks(sums), sums.numel(), _sizes(sums, is_complex), arrays)
    return entering, end


def carry_back_cpu(
    sums: Float[Tensor, "d_inner batch chunks rows"],
    advance: Float[Tensor, "d_inner rows"],
    start: Float[Tensor, "d_inner batch rows"],
    entering: Float[Tensor, "d_inner batch chunks rows"],
    is_complex: bool,
) -> tuple[
    Float[Tensor, "d_inner batch chunks rows"],
    Float[Tensor, "d_inner batch rows"],
    Float[Tensor, "d_inner rows"],
]:
    """See `carry.carry_back`; float32."""
    leaving = empty_float32(*sums.shape)
    first, d_advance = empty_float32(*start.shape), empty_float32(*start.shape)
    results = (flat(leaving), flat(first), flat(d_advance))
    arrays = (flat(sums), flat(advance), flat(start), flat(entering), *results)
    run_tasks(_carry_back, _tasks(sums), sums.numel(), _sizes(sums, is_complex), arrays)
    return leaving, first, d_advance.sum(1)


def _tasks(sums: Tensor) -> int:
    return sums.shape[0] * sums.shape[1]


def _sizes(sums: Tensor, is_complex: bool) -> tuple[int, int, int, bool]:
    """(batch, chunks, d_state, is_complex)."""
    _, batch, chunks, rows = sums.shape
    return batch, chunks, rows // 2 if is_complex else rows, is_complex


@kernel
def _carry(first_task, last_task, sizes, arrays):
    """Write `entering` and `end` for tasks first_task to last_task - 1; arrays as `carry_cpu` lists them."""
    batch, chunks, d_state, is_complex = sizes
    sums, advance, start, entering, end = arrays
    rows = 2 * d_state if is_complex else d_state
    for task in range(first_task, last_task):
        decay, edge = task // batch * rows, task * rows
        for n in range(0, d_state, LANES):
            width = d_state - n
            a_re, h_re = load_some(advance, decay + n, width), load_some(start, edge + n, width)
            if is_complex:
                a_im = load_some(advance, decay + d_state + n, width)
                h_im = load_some(start, edge + d_state + n, width)
                for chunk in range(chunks):
                    at = (task * chunks + chunk) * rows + n
                    s_re = load_some(sums, at, width)
                    s_im = load_some(sums, at + d_state, width)
                    store_some(entering, at, h_re, width)
                    store_some(entering, at + d_state, h_im, width)
                    s_re = fma(a_re, h_re, s_re - a_im * h_im)
                    h_im = fma(a_re, h_im, fma(a_im, h_re, s_im))
                    h_re = s_re
                store_some(end, edge + d_state + n, h_im, width)
            else:
                for chunk in range(chunks):
                    at = (task * chunks + chunk) * rows + n
                    s_re = load_some(sums, at, width)
                    store_some(entering, at, h_re, width)
                    h_re = fma(a_re, h_re, s_re)
            store_some(end, edge + n, h_re, width)


@kernel
def _carry_back(first_task, last_task, sizes, arrays):
    """Write `leaving`, `first` and a task's share of the gradient of `advance`, as `_carry` does."""
    batch, chunks, d_state, is_complex = sizes
    sums, advance, start, entering, leaving, first, d_advance = arrays
    rows = 2 * d_state if is_complex else d_state
    for task in range(first_task, last_task):
        decay, edge = task // batch * rows, task * rows
        for n in range(0, d_state, LANES):
            width = d_state - n
            a_re, g_re = load_some(advance, decay + n, width), load_some(start, edge + n, width)
            d_re = splat(_ZERO)
            if is_complex:
                a_im = load_some(advance, decay + d_state + n, width)
                g_im = load_some(start, edge + d_state + n, width)
                d_im = splat(_ZERO)
                for chunk in range(chunks - 1, -1, -1):
                    at = (task * chunks + chunk) * rows + n
                    s_re = load_some(sums, at, width)
                    s_im = load_some(sums, at + d_state, width)
                    h_re = load_some(entering, at, width)
                    h_im = load_some(entering, at + d_state, width)
                    store_some(leaving, at, g_re, width)
                    store_some(leaving, at + d_state, g_im, width)
                    d_re = fma(h_re, g_re, fma(h_im, g_im, d_re))
                    d_im = fma(h_re, g_im, d_im - h_im * g_re)
                    s_re = fma(a_re, g_re, fma(a_im, g_im, s_re))
                    g_im = fma(a_re, g_im, s_im - a_im * g_re)
                    g_re = s_re
                store_some(first, edge + d_state + n, g_im, width)
                store_some(d_advance, edge + d_state + n, d_im, width)
            else:
                for chunk in range(chunks - 1, -1, -1):
                    at = (task * chunks + chunk) * rows + n
                    s_re = load_some(sums, at, width)
                    store_some(leaving, at, g_re, width)
                    d_re = fma(load_some(entering, at, width), g_re, d_re)
                    g_re = fma(a_re, g_re, s_re)
            store_some(first, edge + n, g_re, width)
            store_some(d_advance, edge + n, d_re, width)
