"""Method "fft": one long convolution by the impulse response, which a product of two small tables gives.

With w = exp(log_decay) and chunks of T steps, the free response of the system to a state h before step 0 is

    y[i T + k] = C w^(k + 1) . (w^(i T) h)

a product of length / T by d_state and d_state by T numbers per channel: nothing of size d_inner * d_state *
length is ever made. The impulse response is C . B at step 0, and after it the free response to the state B.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Inexact
from torch import Tensor

from bioaudio_kernels.lti_scan.long_convolution import long_convolution
from bioaudio_kernels.lti_scan.tables import as_rows, as_states, chunk_responses, powers


def lti_scan_fft(
    x: Float[Tensor, "batch length d_inner"],
    log_decay: Inexact[Tensor, "d_inner d_state"],
    B: Inexact[Tensor, "d_inner d_state"],
    C: Inexact[Tensor, "d_inner d_state"],
    D: Float[Tensor, " d_inner"] | None,
    initial_state: Inexact[Tensor, "batch d_inner d_state"] | None,
    chunk: int,
) -> tuple[Float[Tensor, "batch length d_inner"], Inexact[Tensor, "batch d_inner d_state"]]:
    """See `lti_scan`; parameters and states in one precision, x in any. `chunk` is the T of the tables."""
    length = x.shape[1]
    chunks = -(-length // chunk)
    taps, emit, inject = chunk_responses(powers(log_decay, chunk + 1), B, C, D)
    strides = powers(log_decay, chunks, chunk).mT
    kernel = torch.cat([taps[:, :1], _free_response(B.unsqueeze(1), strides, emit)[:, 0]], 1)
    state = _state_from_zero(x, strides, inject)
    free = None
    if initial_state is not None:
        before = initial_state.transpose(0, 1)
        free = _free_response(before, strides, emit)[..., :length]
        offset = length - (chunks - 1) * chunk
        state = state + (powers(log_decay, 2, offset)[..., 1] * strides[:, -1]).unsqueeze(1) * before
    return long_convolution(x, kernel[:, :length], free), state.transpose(0, 1)


def _free_response(
    states: Inexact[Tensor, "d_inner responses d_state"],
    strides: Inexact[Tensor, "d_inner chunks d_state"],
    emit: Float[Tensor, "d_inner rows T"],
) -> Float[Tensor, "d_inner responses padded"]:
    """What comes out of the system after each of several states, when nothing goes in."""
    entering = as_rows(states.unsqueeze(2) * strides.unsqueeze(1))
    return torch.bmm(entering.flatten(1, 2), emit).view(*states.shape[:2], -1)


def _state_from_zero(
    x: Float[Tensor, "batch length d_inner"],
    strides: Inexact[Tensor, "d_inner chunks d_state"],
    inject: Float[Tensor, "d_inner rows T"],
) -> Inexact[Tensor, "d_inner batch d_state"]:
    """The final state after a zero one. Chunks are counted from the end: the first is the short one."""
    chunks, chunk = strides.shape[1], inject.shape[2]
    padded = F.pad(x.permute(2, 0, 1).to(inject.dtype), (chunks * chunk - x.shape[1], 0))
    sums = torch.bmm(padded.reshape(x.shape[2], -1, chunk), inject.mT)
    sums = as_states(sums.unflatten(1, (x.shape[0], chunks)), strides.is_complex())
    return (sums * strides.flip(1).unsqueeze(1)).sum(2)
