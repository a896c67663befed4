"""causal_conv1d's `causal_conv1d_update`: decoding steps over a cache of inputs."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from bioaudio_kernels.backend import resolve_backend
from bioaudio_kernels.compat.conv import silu_or_none
from bioaudio_kernels.compat.forms import ConvSteps
from bioaudio_kernels.inputs import check_inputs, dtype_name

OP = "causal_conv1d_update"


@torch.no_grad()
def causal_conv1d_update(
    x: ConvSteps,
    conv_state: Float[Tensor, "rows dim state_len"],
    weight: Float[Tensor, "dim width"],
    bias: Float[Tensor, " dim"] | None = None,
    activation: Literal["silu", "swish"] | None = None,
    cache_seqlens: Int[Tensor, " batch"] | None = None,
    conv_state_indices: Int[Tensor, " batch"] | None = None,
) -> ConvSteps:
    """One or several time steps; `conv_state` takes up x. As in causal_conv1d, nothing is differentiated.

    Args:
        x: (batch, dim), or (batch, dim, length) for several steps.
        conv_state: the inputs before x, oldest first, (batch, dim, state_len), state_len at least width - 1.
        weight: (dim, width), any width.
        bias: (dim,).
        activation: None, or "silu" or "swish", which are the same.
        cache_seqlens: (batch,), integer: conv_state is a ring, in which the input of step t of all time is at
            t % state_len, and x begins at step cache_seqlens. None: it moves along, its last column the last
            input.
        conv_state_indices: (batch,), integer: element b has its inputs in conv_state[conv_state_indices[b]],
            where conv_state may hold more or fewer rows than the batch. A negative one is padding: its output
            is 0 and no row changes. No two may be equal.

    Returns:
        out, shaped like x and of its dtype.

    Raises:
        ValueError: naming the argument that does not fit, what it is and what is allowed.
    """
    silu = silu_or_none(OP, activation) is not None
    _check(x, conv_state, weight, bias, cache_seqlens, conv_state_indices)
    steps = x.unsqueeze(-1) if x.ndim == 2 else x
    if resolve_backend(OP, "auto", x, conv_state, weight, bias) == "triton":
        from bioaudio_kernels.compat.triton_conv_update import conv_update_triton as update
    else:
        update = _update
    return update(steps, conv_state, weight, bias, cache_seqlens, conv_state_indices, silu).view(x.shape)


def _update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cache_seqlens: Tensor | None,
    rows: Tensor | None,
    silu: bool,
) -> Tensor:
    """In plain torch, sums in float32, or float64 if an argument is."""
    width, length, state_len = weight.shape[1], x.shape[2], conv_state.shape[2]
    old = conv_state if rows is None else conv_state[rows.clamp(min=0)]
    if cache_seqlens is None:
        new = torch.cat([old, x.to(old.dtype)], -1)[..., -state_len:]
        before = old[..., state_len - (width - 1) :]
    else:
        before = old.gather(2, _ring(cache_seqlens, -(width - 1), 0, old))
        kept = min(length, state_len)  # of more steps than that, the last stay
        new = old.scatter(
            2, _ring(cache_seqlens, length - kept, length, old), x[..., length - kept :].to(old.dtype)
        )
    wide = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    inputs = torch.cat([before.to(wide), x.to(wide)], -1)
    y = F.conv1d(
        inputs, weight.to(wide).unsqueeze(1), None if bias is None else bias.to(wide), groups=x.shape[1]
    )
    y = (F.silu(y) if silu else y).to(x.dtype)
    if rows is None:
        conv_state.copy_(new)
        return y
    present = rows >= 0
    conv_state[rows[present]] = new[present]
    return torch.where(present.view(-1, 1, 1), y, 0)


def _ring(start: Tensor, first: int, last: int, state: Tensor) -> Tensor:
    """Places (batch, dim, last - first) in the rings of the steps start + first to start + last - 1."""
    steps = start.long().unsqueeze(1) + torch.arange(first, last, device=start.device)
    return (steps % state.shape[2]).unsqueeze(1).expand(-1, state.shape[1], -1)


def _check(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cache_seqlens: Tensor | None,
    rows: Tensor | None,
) -> None:
    """By hand: it runs for every token of every layer."""
    if x.ndim not in (2, 3):
        raise ValueError(f"{OP}: x has shape {tuple(x.shape)}, expected (batch, dim) or (batch, dim, length)")
    batch, dim = x.shape[:2]
    if weight.ndim != 2 or weight.shape[0] != dim or weight.shape[1] == 0:
        raise ValueError(
            f"{OP}: weight has shape {tuple(weight.shape)}, expected (dim={dim}, width), width above 0"
        )
    width = weight.shape[1]
    states = batch if rows is None else conv_state.shape[0] if conv_state.ndim else 0
    if conv_state.ndim != 3 or conv_state.shape[:2] != (states, dim) or conv_state.shape[2] < width - 1:
        raise ValueError(
            f"{OP}: conv_state has shape {tuple(conv_state.shape)}, expected ({states}, dim={dim}, "
            f"state_len), state_len at least width - 1 = {width - 1}"
        )
    if bias is not None and bias.shape != (dim,):
        raise ValueError(f"{OP}: bias has shape {tuple(bias.shape)}, expected (dim={dim},)")
    check_inputs(OP, {"x": x, "conv_state": conv_state, "weight": weight, "bias": bias})
    for name, tensor in (("cache_seqlens", cache_seqlens), ("conv_state_indices", rows)):
        if tensor is None:
            continue
        if tensor.shape != (batch,):
            raise ValueError(f"{OP}: {name} has shape {tuple(tensor.shape)}, expected (batch={batch},)")
        if tensor.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"{OP}: {name} is {dtype_name(tensor.dtype)}, allowed are int32 and int64")
    if cache_seqlens is not None and conv_state.shape[2] == 0:
        raise ValueError(f"{OP}: cache_seqlens needs a conv_state of at least one column, it has none")
