"""The time-invariant scan in plain torch, one step after another: the definition that fast methods match."""

from __future__ import annotations

import torch
from jaxtyping import Float, Inexact
from torch import Tensor


def lti_step_reference(
    x: Float[Tensor, "batch d_inner"],
    log_decay: Inexact[Tensor, "d_inner d_state"],
    B: Inexact[Tensor, "d_inner d_state"],
    C: Inexact[Tensor, "d_inner d_state"],
    D: Float[Tensor, " d_inner"] | None,
    state: Inexact[Tensor, "batch d_inner d_state"],
) -> tuple[Float[Tensor, "batch d_inner"], Inexact[Tensor, "batch d_inner d_state"]]:
    """One step of the recurrence, in the state's dtype; y has the dtype of x. See `lti_scan`."""
    dtype = state.dtype
    u = x.to(state.real.dtype)
    state = torch.exp(log_decay.to(dtype)) * state + B.to(dtype) * u.unsqueeze(-1)
    y = (C.to(dtype) * state).sum(-1)
    if dtype.is_complex:
        y = 2 * y.real
    if D is not None:
        y = y + D.to(u.dtype) * u
    return y.to(x.dtype), state


def lti_scan_reference(
    x: Float[Tensor, "batch length d_inner"],
    log_decay: Inexact[Tensor, "d_inner d_state"],
    B: Inexact[Tensor, "d_inner d_state"],
    C: Inexact[Tensor, "d_inner d_state"],
    D: Float[Tensor, " d_inner"] | None,
    initial_state: Inexact[Tensor, "batch d_inner d_state"] | None,
) -> tuple[Float[Tensor, "batch length d_inner"], Inexact[Tensor, "batch d_inner d_state"]]:
    """The scan as a loop over `lti_step_reference`, in the dtype of log_decay.

    Autograd differentiates it any number of times; time and memory grow with length * d_inner * d_state.
    """
    state = log_decay.new_zeros(x.shape[0], *log_decay.shape) if initial_state is None else initial_state
    outputs = []
    # unbind, not x[:, t]: the gradient of `length` slices would be `length` full-size tensors of zeros.
    for x_t in x.unbind(1):
        y_t, state = lti_step_reference(x_t, log_decay, B, C, D, state)
        outputs.append(y_t)
    return (torch.stack(outputs, 1), state) if outputs else (torch.empty_like(x), state.clone())
