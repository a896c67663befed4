# type: ignore  (Triton's language is not Python: pyright cannot type it)
"""States in Triton kernels: pairs of real numbers, of which the second is zero, and lies nowhere, if real."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from bioaudio_kernels.triton_jit import jit


def as_pairs(states: Tensor) -> Tensor:
    """(d_inner, d_state) numbers as real ones, side by side in each channel; channels at any distance."""
    states = states if states.shape[1] < 2 or states.stride(1) == 1 else states.contiguous()
    return torch.view_as_real(states.resolve_conj()).flatten(1) if states.is_complex() else states


@jit
def load_states(pointer, n, d_state, COMPLEX: tl.constexpr):
    """Real and imaginary parts of the states of a channel, at `pointer`."""
    at = pointer + n * (2 if COMPLEX else 1)
    re = tl.load(at, mask=n < d_state, other=0.0)
    im = tl.load(at + 1, mask=(n < d_state) & COMPLEX, other=0.0)
    return re, im


@jit
def store_states(pointer, re, im, n, d_state, COMPLEX: tl.constexpr):
    """The inverse of `load_states`."""
    at = pointer + n * (2 if COMPLEX else 1)
    tl.store(at, re, mask=n < d_state)
    tl.store(at + 1, im, mask=(n < d_state) & COMPLEX)
