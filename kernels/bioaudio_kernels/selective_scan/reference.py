"""The selective scan in plain torch, one step after another: the definition that the fast backends match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Inexact
from torch import Tensor

from bioaudio_kernels.selective_scan.forms import ScanDt, ScanMap, StepDt, StepMap


def selective_scan_step_reference(
    x: Float[Tensor, "batch d_inner"],
    dt: StepDt,
    A: Inexact[Tensor, "d_inner d_state"],
    B: StepMap,
    C: StepMap,
    D: Float[Tensor, " d_inner"] | None,
    z: Float[Tensor, "batch d_inner"] | None,
    dt_bias: Float[Tensor, " d_inner"] | None,
    state: Inexact[Tensor, "batch d_inner d_state"],
    dt_softplus: bool = True,
) -> tuple[Float[Tensor, "batch d_inner"], Inexact[Tensor, "batch d_inner d_state"]]:
    """One step of the recurrence, in the state's dtype; y has the dtype of x. See `selective_scan`."""
    dtype, real = state.dtype, _real(state.dtype)
    u, delta = x.to(real), dt.to(real)
    if dt_bias is not None:
        delta = delta + dt_bias.to(real)
    if dt_softplus:
        delta = F.softplus(delta)
    decay = torch.exp(delta.unsqueeze(-1) * A.to(dtype))
    state = decay * state + (delta * u).unsqueeze(-1) * _by_channel(B, x.shape[1]).to(dtype)
    y = (state * _by_channel(C, x.shape[1]).to(dtype)).sum(-1)
    if dtype.is_complex:
        y = 2 * y.real  # the state and its conjugate
    if D is not None:
        y = y + D.to(real) * u
    if z is not None:
        y = y * F.silu(z.to(real))
    return y.to(x.dtype), state


def _by_channel(map: Tensor, d_inner: int) -> Tensor:
    """(batch or 1, d_inner or 1, d_state), of an input or output map in any of its forms."""
    if map.ndim == 2:
        return map.unsqueeze(1)
    return map.repeat_interleave(d_inner // map.shape[1], 1)


def selective_scan_reference(
    x: Float[Tensor, "batch length d_inner"],
    dt: ScanDt,
    A: Inexact[Tensor, "d_inner d_state"],
    B: ScanMap,
    C: ScanMap,
    D: Float[Tensor, " d_inner"] | None = None,
    z: Float[Tensor, "batch length d_inner"] | None = None,
    dt_bias: Float[Tensor, " d_inner"] | None = None,
    initial_state: Inexact[Tensor, "n_states d_inner d_state"] | None = None,
    dt_softplus: bool = True,
    *,
    cu_seqlens: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Float[Tensor, "batch length d_inner"], Inexact[Tensor, "n_states d_inner d_state"]]:
    """The scan as a loop over `selective_scan_step_reference`: float64 if any argument is, else float32.

    Autograd differentiates it any number of times, through both states; time and memory grow with
    length * d_inner * d_state, so it is for tests and for float64.
    """
    batch, length, d_inner = x.shape
    if initial_state is None:
        n_states = batch if cu_seqlens is None else cu_seqlens.numel() - 1
        dtype = state_dtype(x, dt, A, B, C, D, z, dt_bias)
        initial_state = torch.zeros(n_states, d_inner, A.shape[1], dtype=dtype, device=x.device)
    else:
        initial_state = initial_state.to(state_dtype(x, dt, A, B, C, D, z, dt_bias, initial_state))
    # unbind, not x[:, t]: the gradient of `length` slices would be `length` full-size tensors of zeros.
    x_steps, dt_steps, B_steps, C_steps, z_steps = (_steps(given, length) for given in (x, dt, B, C, z))

    def run(start: int, stop: int, state: Tensor) -> tuple[list[Tensor], Tensor]:
        outputs = []
        for t in range(stop - 1, start - 1, -1) if reverse else range(start, stop):
            y_t, state = selective_scan_step_reference(
                x_steps[t], dt_steps[t], A, B_steps[t], C_steps[t], D, z_steps[t], dt_bias, state, dt_softplus
            )
            outputs.append(y_t)
        return outputs[::-1] if reverse else outputs, state

    if cu_seqlens is None:
        outputs, final_state = run(0, length, initial_state)
    else:
        borders, outputs, states = cu_seqlens.tolist(), [], []
        for start, stop, state in zip(borders, borders[1:], initial_state.split(1), strict=False):
            part, state = run(start, stop, state)
            outputs += part
            states.append(state)
        final_state = torch.cat(states) if states else initial_state
    return torch.stack(outputs, 1) if outputs else torch.empty_like(x), final_state


def state_dtype(*given: Tensor | None) -> torch.dtype:
    """What the recurrence runs in: float64 if any argument is, else float32; complex if any is."""
    dtypes = [tensor.dtype for tensor in given if tensor is not None]
    double = any(dtype in (torch.float64, torch.complex128) for dtype in dtypes)
    if any(dtype.is_complex for dtype in dtypes):
        return torch.complex128 if double else torch.complex64
    return torch.float64 if double else torch.float32


def _real(dtype: torch.dtype) -> torch.dtype:
    """`dtype.to_real()`, which torch.compile cannot trace."""
    if not dtype.is_complex:
        return dtype
    return torch.float64 if dtype == torch.complex128 else torch.float32


def _steps(tensor: Tensor | None, length: int) -> Sequence[Any]:
    """The tensor at each step, in the forms of `selective_scan_step_reference`."""
    if tensor is None or tensor.ndim == 1:  # absent, or dt constant in time
        return [tensor] * length
    if tensor.ndim == 2:  # B or C constant in time
        return [tensor.unsqueeze(0)] * length
    return tensor.unbind(1)
