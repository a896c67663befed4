"""The causal depthwise convolution in plain torch: the definition that the fast backends match."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def causal_conv1d_reference(
    x: Float[Tensor, "batch length channels"],
    weight: Float[Tensor, "channels width"],
    bias: Float[Tensor, " channels"] | None = None,
    initial_state: Float[Tensor, "sequences width-1 channels"] | None = None,
    activation: str | None = None,
    cu_seqlens: Int[Tensor, " borders"] | None = None,
) -> tuple[Float[Tensor, "batch length channels"], Float[Tensor, "sequences width-1 channels"]]:
    """See `causal_conv1d`. Float64 if any argument is, else float32; differentiable any number of times.

    Packed sequences run one after another; reading `cu_seqlens` waits for a GPU.
    """
    if cu_seqlens is None:
        return _convolve(x, weight, bias, initial_state, activation)
    ys, states = [x[:, :0]], [x.new_empty(0, weight.shape[1] - 1, x.shape[2])]
    for i, (start, stop) in enumerate(pairwise(cu_seqlens.tolist())):
        state = None if initial_state is None else initial_state[i : i + 1]
        y, state = _convolve(x[:, start:stop], weight, bias, state, activation)
        ys.append(y)
        states.append(state)
    return torch.cat(ys, 1), torch.cat(states)


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, activation: str | None
) -> tuple[Tensor, Tensor]:
    batch, length, channels = x.shape
    width = weight.shape[1]
    given = [tensor for tensor in (x, weight, bias, initial_state) if tensor is not None]
    dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in given) else torch.float32
    if initial_state is None:
        initial_state = x.new_zeros(batch, width - 1, channels)
    inputs = torch.cat([initial_state.to(x.dtype), x], 1)
    taps = weight.to(dtype).unbind(1)
    y = torch.zeros(batch, length, channels, dtype=dtype, device=x.device)
    for k, tap in enumerate(taps):
        y = y + tap * inputs[:, k : k + length].to(dtype)
    if bias is not None:
        y = y + bias.to(dtype)
    if activation == "silu":
        y = F.silu(y)
    return y.to(x.dtype), inputs[:, length:].clone()


def causal_conv1d_step_reference(
    x: Float[Tensor, "batch channels"],
    weight: Float[Tensor, "channels width"],
    bias: Float[Tensor, " channels"] | None,
    state: Float[Tensor, "batch width-1 channels"],
    activation: str | None = None,
) -> tuple[Float[Tensor, "batch channels"], Float[Tensor, "batch width-1 channels"]]:
    """One time step, in the dtypes of `causal_conv1d_reference`; y has the dtype of x."""
    dtype = torch.float64 if torch.float64 in (x.dtype, weight.dtype) else torch.float32
    inputs = torch.cat([state.to(x.dtype), x.unsqueeze(1)], 1)
    y = (inputs.to(dtype) * weight.to(dtype).mT).sum(1)
    if bias is not None:
        y = y + bias.to(dtype)
    if activation == "silu":
        y = F.silu(y)
    return y.to(x.dtype), inputs[:, 1:].clone()
