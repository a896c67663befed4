"""causal_conv1d's `causal_conv1d_fn`."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from bioaudio_kernels.causal_conv1d import Activation, causal_conv1d
from bioaudio_kernels.shapes import check_shapes

OP = "causal_conv1d_fn"
# Of a seq_idx that was read once, which on a GPU waits for it: its version then, and what it says.
_known = WeakTensorKeyDictionary()


def causal_conv1d_fn(
    x: Float[Tensor, "batch dim length"],
    weight: Float[Tensor, "dim width"],
    bias: Float[Tensor, " dim"] | None = None,
    seq_idx: Int[Tensor, "batch length"] | None = None,
    initial_states: Float[Tensor, "batch dim width-1"] | None = None,
    return_final_states: bool = False,
    final_states_out: Float[Tensor, "batch dim width-1"] | None = None,
    activation: Literal["silu", "swish"] | None = None,
) -> (
    Float[Tensor, "batch dim length"]
    | tuple[Float[Tensor, "batch dim length"], Float[Tensor, "batch dim width-1"]]
):
    """`causal_conv1d` with causal_conv1d's arguments and layout; any width, and x in any layout.

    Args:
        x: (batch, dim, length).
        weight: (dim, width); the last column multiplies the present input.
        bias: (dim,).
        seq_idx: (batch, length), integer: steps with different numbers belong to different sequences packed
            in one row, between which nothing passes; where it is negative the output is 0. A tensor is read
            once (on a GPU that waits for it) and then remembered. Under torch.compile use
            `bioaudio_kernels.causal_conv1d` with cu_seqlens.
        initial_states: the width - 1 inputs before x, oldest first, (batch, dim, width - 1); with seq_idx
            before the first sequence of each row.
        return_final_states: whether to return the last width - 1 inputs too; not with seq_idx.
        final_states_out: where to write them, (batch, dim, width - 1).
        activation: None, or "silu" or "swish", which are the same.

    Returns:
        out (batch, dim, length); with `return_final_states` also the final states (batch, dim, width - 1),
        `final_states_out` itself where it is given.

    Raises:
        ValueError: naming the argument that does not fit, what it is and what is allowed.
    """
    silu = silu_or_none(OP, activation)
    axes = {
        "x": "batch dim length",
        "weight": "dim width",
        "bias": "dim",
        "seq_idx": "batch length",
        "initial_states": "batch dim states",
        "final_states_out": "batch dim states",
    }
    check_shapes(OP, axes, (x, weight, bias, seq_idx, initial_states, final_states_out))
    for name, states in (("initial_states", initial_states), ("final_states_out", final_states_out)):
        if states is not None and states.shape[2] != weight.shape[1] - 1:
            raise ValueError(
                f"{OP}: {name} holds {states.shape[2]} inputs, expected width - 1 = {weight.shape[1] - 1}"
            )
    before = None if initial_states is None else initial_states.mT
    if seq_idx is not None:
        if return_final_states:
            raise ValueError(f"{OP}: return_final_states=True is not allowed with seq_idx")
        return _packed(x, weight, bias, seq_idx, before, silu)
    y, after = causal_conv1d(x.mT, weight, bias, before, activation=silu)
    if not return_final_states:
        return y.mT
    return y.mT, after.mT if final_states_out is None else final_states_out.copy_(after.mT)


def silu_or_none(op: str, activation: str | None) -> Activation | None:
    """The activation by the name that our convolution has for it.

    Raises:
        ValueError: if it is none of causal_conv1d's.
    """
    if activation not in (None, "silu", "swish"):
        raise ValueError(f"{op}: activation={activation!r}, allowed are None, 'silu' and 'swish'")
    return "silu" if activation else None


class _Packing(NamedTuple):
    """What a seq_idx says of its rows laid end to end."""

    borders: Tensor
    """(n_sequences + 1,)"""
    first: Tensor
    """(batch,): the number of the sequence that each row starts with."""
    has_padding: bool


def _packed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor,
    before: Tensor | None,
    activation: Activation | None,
) -> Tensor:
    """All rows in one, of which every change of seq_idx and every row's end is a border."""
    packing = _read(seq_idx)
    state = None
    if before is not None:
        others = before.new_zeros(packing.borders.numel() - 1, *before.shape[1:])
        state = others.index_copy(0, packing.first, before)
    batch, channels, length = x.shape
    y, _ = causal_conv1d(
        x.mT.reshape(1, batch * length, channels), weight, bias, state,
        cu_seqlens=packing.borders, activation=activation,
    )  # fmt: skip
    y = y.view(batch, length, channels).mT
    return y.masked_fill(seq_idx.unsqueeze(1) < 0, 0) if packing.has_padding else y


def _read(seq_idx: Tensor) -> _Packing:
    version = None if seq_idx.is_inference() else seq_idx._version
    known = _known.get(seq_idx)
    if known is not None and version is not None and known[0] == version:
        return known[1]
    batch, length = seq_idx.shape
    starts_here = torch.ones(batch, length, dtype=torch.bool, device=seq_idx.device)
    starts_here[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    starts = starts_here.flatten().nonzero().squeeze(1)
    packing = _Packing(
        borders=torch.cat([starts, starts.new_tensor([batch * length])]),
        first=torch.searchsorted(starts, torch.arange(batch, device=starts.device) * length),
        has_padding=bool((seq_idx < 0).any()),
    )
    _known[seq_idx] = (version, packing)
    return packing
