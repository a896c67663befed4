"""The selective scan in plain torch, one step after another: the definition that the fast backends match."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def selective_scan_step_reference(
    x: Float[Tensor, "batch d_inner"],
    dt: Float[Tensor, "batch d_inner"],
    A: Float[Tensor, "d_inner d_state"],
    B: Float[Tensor, "batch d_state"],
    C: Float[Tensor, "batch d_state"],
    D: Float[Tensor, " d_inner"] | None,
    z: Float[Tensor, "batch d_inner"] | None,
    dt_bias: Float[Tensor, " d_inner"] | None,
    state: Float[Tensor, "batch d_inner d_state"],
    dt_softplus: bool = True,
) -> tuple[Float[Tensor, "batch d_inner"], Float[Tensor, "batch d_inner d_state"]]:
    """One step of the recurrence, in the state's dtype; y has the dtype of x. See `selective_scan`."""
    dtype = state.dtype
    u, delta = x.to(dtype), dt.to(dtype)
    if dt_bias is not None:
        delta = delta + dt_bias.to(dtype)
    if dt_softplus:
        delta = F.softplus(delta)
    decay = torch.exp(delta.unsqueeze(-1) * A.to(dtype))
    state = decay * state + (delta * u).unsqueeze(-1) * B.to(dtype).unsqueeze(1)
    y = (state * C.to(dtype).unsqueeze(1)).sum(-1)
    if D is not None:
        y = y + D.to(dtype) * u
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(x.dtype), state


def selective_scan_reference(
    x: Float[Tensor, "batch length d_inner"],
    dt: Float[Tensor, "batch length d_inner"],
    A: Float[Tensor, "d_inner d_state"],
    B: Float[Tensor, "batch length d_state"],
    C: Float[Tensor, "batch length d_state"],
    D: Float[Tensor, " d_inner"] | None = None,
    z: Float[Tensor, "batch length d_inner"] | None = None,
    dt_bias: Float[Tensor, " d_inner"] | None = None,
    initial_state: Float[Tensor, "batch d_inner d_state"] | None = None,
    dt_softplus: bool = True,
) -> tuple[Float[Tensor, "batch length d_inner"], Float[Tensor, "batch d_inner d_state"]]:
    """The scan as a loop over `selective_scan_step_reference`: float64 if any argument is, else float32.

    Autograd differentiates it any number of times, through both states; time and memory grow with
    length * d_inner * d_state, so it is for tests and for float64.
    """
    batch, length, d_inner = x.shape
    given = [tensor for tensor in (x, dt, A, B, C, D, z, dt_bias, initial_state) if tensor is not None]
    dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in given) else torch.float32
    if initial_state is None:
        state = torch.zeros(batch, d_inner, A.shape[1], dtype=dtype, device=x.device)
    else:
        state = initial_state.to(dtype)
    # unbind, not x[:, t]: the gradient of `length` slices would be `length` full-size tensors of zeros.
    gates = z.unbind(1) if z is not None else [None] * length
    steps = zip(x.unbind(1), dt.unbind(1), B.unbind(1), C.unbind(1), gates, strict=True)
    outputs = []
    for x_t, dt_t, B_t, C_t, z_t in steps:
        y_t, state = selective_scan_step_reference(
            x_t, dt_t, A, B_t, C_t, D, z_t, dt_bias, state, dt_softplus
        )
        outputs.append(y_t)
    return torch.stack(outputs, 1) if outputs else torch.empty_like(x), state
