"""mamba_ssm's `selective_state_update`: one decoding step over a cache of states."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from bioaudio_kernels.backend import resolve_backend
from bioaudio_kernels.compat.forms import OfChannels, OfChannelsAndStates, States, StepChannels, StepMap
from bioaudio_kernels.inputs import check_inputs, dtype_name
from bioaudio_kernels.selective_scan.reference import selective_scan_step_reference

OP = "selective_state_update"


@torch.no_grad()
def selective_state_update(
    state: States,
    x: StepChannels,
    dt: StepChannels,
    A: OfChannelsAndStates,
    B: StepMap,
    C: StepMap,
    D: OfChannels | None = None,
    z: StepChannels | None = None,
    dt_bias: OfChannels | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Int[Tensor, " batch"] | None = None,
) -> StepChannels:
    """One time step; `state` becomes the new state. As in mamba_ssm, nothing is differentiated.

    To train through steps use `bioaudio_kernels.selective_scan_step`, which returns the new state.

    Args:
        state: (batch, dim, dstate), or with heads (batch, nheads, dim, dstate), of any floating dtype;
            complex if A is.
        x: (batch, dim) or (batch, nheads, dim).
        dt: step size before bias and softplus, shaped like x.
        A: (dim, dstate) or (nheads, dim, dstate).
        B: (batch, dstate) or (batch, ngroups, dstate), where head h belongs to group h // (nheads / ngroups);
            channels without heads are one head.
        C: shaped like B.
        D: skip connection, (dim,) or (nheads, dim).
        z: gate, shaped like x.
        dt_bias: added to dt, (dim,) or (nheads, dim).
        dt_softplus: whether dt then goes through softplus.
        state_batch_indices: (batch,), integer: element b has its state in state[state_batch_indices[b]],
            where state may hold more or fewer rows than the batch. A negative one is padding: its output is 0
            and no state changes. No two may be equal.

    Returns:
        out, shaped like x and of its dtype.

    Raises:
        ValueError: naming the argument that does not fit, what it is and what is allowed.
    """
    rows = state_batch_indices
    _check(state, x, dt, A, B, C, D, z, dt_bias, rows)
    if resolve_backend(OP, "auto", x, dt, A, B, C, D, z, dt_bias, state) == "triton":
        from bioaudio_kernels.selective_scan.triton_step import selective_scan_step_in_place

        rows = None if rows is None else rows.contiguous()
        return selective_scan_step_in_place(x, dt, A, B, C, D, z, dt_bias, state, rows, dt_softplus)
    old = state if rows is None else state[rows.clamp(min=0)]
    wide = torch.promote_types(old.dtype, torch.promote_types(x.dtype, torch.float32))
    y, new = selective_scan_step_reference(
        x.flatten(1),
        dt.flatten(1),
        A.flatten(0, -2),
        B,
        C,
        None if D is None else D.flatten(),
        None if z is None else z.flatten(1),
        None if dt_bias is None else dt_bias.flatten(),
        old.flatten(1, -2).to(wide),
        dt_softplus,
    )
    y, new = y.view(x.shape), new.view(old.shape).to(state.dtype)
    if rows is None:
        state.copy_(new)
        return y
    present = rows >= 0
    state[rows[present]] = new[present]
    return torch.where(present.view(-1, *[1] * (x.ndim - 1)), y, 0)


def _check(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    rows: Tensor | None,
) -> None:
    """By hand: it runs for every token of every layer."""
    if x.ndim not in (2, 3):
        raise ValueError(f"{OP}: x has shape {tuple(x.shape)}, expected (batch, dim) or (batch, nheads, dim)")
    batch, *channels = x.shape
    if A.ndim != x.ndim or A.shape[-1] == 0:
        raise ValueError(
            f"{OP}: A has shape {tuple(A.shape)}, expected {(*channels, 'dstate')}, dstate above 0"
        )
    d_state = A.shape[-1]
    states = batch if rows is None else state.shape[0] if state.ndim else 0
    map_shape = (batch, d_state) if B.ndim == 2 else (batch, B.shape[1] if B.ndim > 1 else 1, d_state)
    for name, tensor, expected in (
        ("dt", dt, x.shape),
        ("A", A, (*channels, d_state)),
        ("B", B, map_shape),
        ("C", C, map_shape),
        ("D", D, (*channels,)),
        ("z", z, x.shape),
        ("dt_bias", dt_bias, (*channels,)),
        ("state", state, (states, *channels, d_state)),
        ("state_batch_indices", rows, (batch,)),
    ):
        if tensor is not None and tensor.shape != expected:
            raise ValueError(f"{OP}: {name} has shape {tuple(tensor.shape)}, expected {tuple(expected)}")
    if B.ndim == 3 and (B.shape[1] == 0 or channels[0] % B.shape[1]):
        axis = "dim" if x.ndim == 2 else "nheads"
        raise ValueError(f"{OP}: B has ngroups={B.shape[1]}, which must divide {axis}={channels[0]}")
    check_inputs(
        OP,
        {"x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D, "z": z, "dt_bias": dt_bias, "state": state},
        may_be_complex=("A", "B", "C", "state"),
    )
    if state.is_complex() != A.is_complex() or (not A.is_complex() and (B.is_complex() or C.is_complex())):
        dtypes = ", ".join(
            f"{name} {dtype_name(t.dtype)}" for name, t in (("state", state), ("A", A), ("B", B), ("C", C))
        )
        raise ValueError(
            f"{OP}: {dtypes}; the state must be complex if A is, and with a real A nothing may be"
        )
    if rows is not None and rows.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"{OP}: state_batch_indices is {dtype_name(rows.dtype)}, allowed are int32 and int64"
        )
