"""The state after a sequence: its last inputs, and where it is shorter than the filter, older ones."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def last_inputs(
    x: Float[Tensor, "batch length channels"],
    initial_state: Float[Tensor, "sequences rows channels"],
    cu_seqlens: Int[Tensor, " borders"] | None,
) -> Float[Tensor, "sequences rows channels"]:
    """The last rows of (initial_state, x) of each sequence, as many as in the state, in the dtype of x."""
    sequences, rows, channels = initial_state.shape
    initial_state = initial_state.to(x.dtype)
    if cu_seqlens is None:
        recent = torch.cat([initial_state, x[:, max(0, x.shape[1] - rows) :]], 1)
        return recent[:, recent.shape[1] - rows :].clone()
    if x.shape[1] == 0:
        return initial_state.clone()
    t = cu_seqlens.diff()[:, None] - torch.arange(
        rows, 0, -1, device=x.device
    )  # negative: before the sequence
    inside = (cu_seqlens[:-1, None] + t).clamp(min=0)
    before = (t + rows).clamp(max=rows - 1)[..., None].expand(sequences, rows, channels)
    return torch.where((t >= 0)[..., None], x[0, inside], initial_state.gather(1, before))
