# type: ignore  (Triton's language is not Python: pyright cannot type it)
"""Zero-order hold and its gradients on Triton: one launch each, in float64 from float32 and to it."""

from __future__ import annotations

import torch
import triton.language as tl
from jaxtyping import Float, Inexact
from torch import Tensor

from bioaudio_kernels.integers import next_power_of_2
from bioaudio_kernels.lti_scan.complex_states import as_pairs, load_states, store_states
from bioaudio_kernels.triton_jit import jit


def zoh_triton(
    A: Inexact[Tensor, "d_inner d_state"],
    B: Inexact[Tensor, "d_inner d_state"],
    dt: Float[Tensor, "d_inner 1"] | Float[Tensor, "d_inner d_state"],
) -> tuple[Inexact[Tensor, "d_inner d_state"], Inexact[Tensor, "d_inner d_state"]]:
    """See `discretize.discretize_zoh`."""
    log_decay, B_bar = (A.new_empty(A.shape) for _ in range(2))
    a, b, dt = as_pairs(A), as_pairs(B), dt.expand(A.shape)
    with torch.cuda.device_of(A):
        zoh_kernel[(A.shape[0],)](
            a, a.stride(0), b, b.stride(0), dt, dt.stride(), as_pairs(log_decay), as_pairs(B_bar),
            A.shape[1], COMPLEX=A.is_complex(), BLOCK=next_power_of_2(A.shape[1]), num_warps=1,
        )  # fmt: skip
    return log_decay, B_bar


def zoh_backward_triton(
    d_log_decay: Inexact[Tensor, "d_inner d_state"],
    d_B_bar: Inexact[Tensor, "d_inner d_state"],
    A: Inexact[Tensor, "d_inner d_state"],
    B: Inexact[Tensor, "d_inner d_state"],
    dt: Float[Tensor, "d_inner 1"] | Float[Tensor, "d_inner d_state"],
) -> tuple[
    Inexact[Tensor, "d_inner d_state"],
    Inexact[Tensor, "d_inner d_state"],
    Float[Tensor, "d_inner 1"] | Float[Tensor, "d_inner d_state"],
]:
    """Gradients of A, B and dt."""
    d_A, d_B, d_dt = (A.new_empty(A.shape), A.new_empty(A.shape), dt.new_empty(dt.shape))
    a, b, steps = as_pairs(A), as_pairs(B), dt.expand(A.shape)
    with torch.cuda.device_of(A):
        zoh_back_kernel[(A.shape[0],)](
            as_pairs(d_log_decay.contiguous()), as_pairs(d_B_bar.contiguous()),
            a, a.stride(0), b, b.stride(0), steps, steps.stride(), as_pairs(d_A), as_pairs(d_B), d_dt,
            A.shape[1], COMPLEX=A.is_complex(), PER_STATE=dt.shape[1] == A.shape[1],
            BLOCK=next_power_of_2(A.shape[1]), num_warps=1,
        )  # fmt: skip
    return d_A, d_B, d_dt


@jit
def _times(a_re, a_im, b_re, b_im):
    return a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re


@jit
def _over(a_re, a_im, b_re, b_im):
    size = b_re * b_re + b_im * b_im
    return (a_re * b_re + a_im * b_im) / size, (a_im * b_re - a_re * b_im) / size


@jit
def _mean_decay(re, im):
    """(exp(z) - 1) / z and its slope; close to 0, where they would cancel, the start of their series."""
    near = re * re + im * im < 1e-6
    size = tl.exp(re)
    z_re, z_im = tl.where(near, 1.0, re), tl.where(near, 0.0, im)
    mean_re, mean_im = _over(size * tl.cos(im) - 1, size * tl.sin(im), z_re, z_im)
    slope_re, slope_im = _over(1 - mean_re, -mean_im, z_re, z_im)
    square_re, square_im = _times(re, im, re, im)
    return (
        tl.where(near, 1 + re / 2 + square_re / 6, mean_re),
        tl.where(near, im / 2 + square_im / 6, mean_im),
        tl.where(near, 0.5 + re / 3 + square_re / 8, slope_re + mean_re),
        tl.where(near, im / 3 + square_im / 8, slope_im + mean_im),
    )


@jit
def _load_system(a, s_a, b, s_b, dt, s_dt, channel, n, d_state, COMPLEX: tl.constexpr):
    a_re, a_im = load_states(a + channel * s_a, n, d_state, COMPLEX)
    b_re, b_im = load_states(b + channel * s_b, n, d_state, COMPLEX)
    step = tl.load(dt + channel * s_dt[0] + n * s_dt[1], mask=n < d_state, other=0.0).to(tl.float64)
    return a_re.to(tl.float64), a_im.to(tl.float64), b_re.to(tl.float64), b_im.to(tl.float64), step


@jit
def zoh_kernel(
    a, s_a, b, s_b, dt, s_dt, log_decay, b_bar, d_state, COMPLEX: tl.constexpr, BLOCK: tl.constexpr
):
    """Grid: (d_inner,)."""
    channel, n = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    a_re, a_im, b_re, b_im, step = _load_system(a, s_a, b, s_b, dt, s_dt, channel, n, d_state, COMPLEX)
    mean_re, mean_im, _, _ = _mean_decay(step * a_re, step * a_im)
    b_re, b_im = _times(mean_re, mean_im, b_re, b_im)
    place = channel * d_state * (2 if COMPLEX else 1)
    store_states(log_decay + place, step * a_re, step * a_im, n, d_state, COMPLEX)
    store_states(b_bar + place, step * b_re, step * b_im, n, d_state, COMPLEX)


@jit
def zoh_back_kernel(
    d_log_decay, d_b_bar, a, s_a, b, s_b, dt, s_dt, d_a, d_b, d_dt, d_state,
    COMPLEX: tl.constexpr, PER_STATE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid: (d_inner,)."""
    channel, n = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    a_re, a_im, b_re, b_im, step = _load_system(a, s_a, b, s_b, dt, s_dt, channel, n, d_state, COMPLEX)
    place = channel * d_state * (2 if COMPLEX else 1)
    g_re, g_im = load_states(d_b_bar + place, n, d_state, COMPLEX)
    z_re, z_im = load_states(d_log_decay + place, n, d_state, COMPLEX)
    mean_re, mean_im, slope_re, slope_im = _mean_decay(step * a_re, step * a_im)
    of_b_re, of_b_im = _times(mean_re, -mean_im, g_re, g_im)
    of_mean_re, of_mean_im = _times(b_re, -b_im, g_re, g_im)
    of_z_re, of_z_im = _times(slope_re, -slope_im, of_mean_re, of_mean_im)
    z_re, z_im = z_re + step * of_z_re, z_im + step * of_z_im
    store_states(d_a + place, step * z_re, step * z_im, n, d_state, COMPLEX)
    store_states(d_b + place, step * of_b_re, step * of_b_im, n, d_state, COMPLEX)
    # The real part of conj(A) times the gradient of z, and of conj(mean B) times that of B_bar.
    of_step = a_re * z_re + a_im * z_im + b_re * of_b_re + b_im * of_b_im
    if PER_STATE:
        tl.store(d_dt + channel * d_state + n, of_step, mask=n < d_state)
    else:
        tl.store(d_dt + channel, tl.sum(tl.where(n < d_state, of_step, 0.0), 0))
