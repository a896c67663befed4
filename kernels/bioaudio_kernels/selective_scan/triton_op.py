"""The selective scan on Triton as PyTorch operators: differentiable, deterministic, one node of a graph."""

from __future__ import annotations

from math import lcm
from typing import Any

import torch
from jaxtyping import Float, Inexact, Int
from torch import Tensor

from bioaudio_kernels.differentiable import register_autograd
from bioaudio_kernels.selective_scan.forms import ScanDt, ScanMap
from bioaudio_kernels.selective_scan.triton_config import ScanConfig, choose_config
from bioaudio_kernels.selective_scan.triton_launch import ScanInputs
from bioaudio_kernels.selective_scan.triton_scan import scan_backward, scan_forward


def selective_scan_triton(
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
    cu_seqlens: Int[Tensor, " borders"] | None = None,
    reverse: bool = False,
    config: ScanConfig | None = None,
) -> tuple[Float[Tensor, "batch length d_inner"], Inexact[Tensor, "n_states d_inner d_state"]]:
    """See `selective_scan`. float32, bfloat16 or float16, each argument its own; any strides; float32 states.

    `config` overrides `choose_config`, for benchmarks and tests.
    """
    if x.numel() == 0:
        return _nothing_to_do(x, A, initial_state, cu_seqlens)
    dt = dt.expand(x.shape)
    B, C = with_equal_groups(B, C)
    parts = 2 if A.is_complex() else 1
    if parts == 2:
        A, B, C = (as_pairs(tensor) for tensor in (A, B, C))
        initial_state = None if initial_state is None else as_pairs(initial_state)
    if config is None:
        config = default_config(x, B, C, parts)
    y, final_state, _ = _forward(
        x, dt, A, B, C, D, z, dt_bias, initial_state, cu_seqlens, parts, dt_softplus, reverse, config
    )
    if parts == 2:
        final_state = torch.view_as_complex(final_state.unflatten(-1, (-1, 2)).contiguous())
    return y, final_state


def with_equal_groups(B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """B and C, if they vary in time, with a groups axis: of one group, or of as many as the other has."""
    B, C = (rows.unsqueeze(2) if rows.ndim == 3 else rows for rows in (B, C))
    groups = [rows.shape[2] for rows in (B, C) if rows.ndim == 4 and rows.shape[2] > 1]
    common = lcm(*groups)
    if len(set(groups)) > 1:
        B, C = (rows.repeat_interleave(common // rows.shape[2], 2) for rows in (B, C))
    return B, C


def as_pairs(tensor: Tensor) -> Tensor:
    """Complex numbers as neighbouring pairs (real, imaginary) of float32 along the last axis."""
    return torch.view_as_real(tensor.to(torch.complex64).resolve_conj().contiguous()).flatten(-2)


def default_config(x: Tensor, B: Tensor, C: Tensor, parts: int) -> ScanConfig:
    """What `choose_config` gives for these tensors; B and C have equal groups, complex ones are pairs."""
    batch, length, d_inner = x.shape
    plain = parts == 1 and B.ndim == 4 and C.ndim == 4
    groups = max([rows.shape[2] for rows in (B, C) if rows.ndim == 4], default=1)
    return choose_config(batch, length, d_inner, d_inner // groups, plain=plain)


def _nothing_to_do(
    x: Tensor, A: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor]:
    """An empty sequence gives back its state."""
    if initial_state is not None:
        return torch.empty_like(x), initial_state.clone()
    dtype = torch.complex64 if A.is_complex() else torch.float32
    states = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return torch.empty_like(x), x.new_zeros(states, *A.shape, dtype=dtype)


# As in `triton_step`, defined without `custom_op`.
_TENSORS = (
    "Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? dt_bias, "
    "Tensor? initial_state, Tensor? cu_seqlens"
)
_OPTIONS = "int parts, bool dt_softplus, bool reverse, int[] config"
torch.library.define("bioaudio::selective_scan", f"({_TENSORS}, {_OPTIONS}) -> (Tensor, Tensor, Tensor)")
torch.library.define(
    "bioaudio::selective_scan_backward",
    f"(Tensor dy, Tensor? d_final, {_TENSORS}, Tensor states, {_OPTIONS}) -> Tensor[]",
)
_forward = torch.ops.bioaudio.selective_scan.default
_backward = torch.ops.bioaudio.selective_scan_backward.default


@torch.library.impl("bioaudio::selective_scan", ("cpu", "cuda"))
def _(
    x, dt, A, B, C, D, z, dt_bias, initial_state, cu_seqlens, parts, dt_softplus, reverse, config
):  # fmt: skip
    inputs = ScanInputs(x, dt, A, B, C, D, z, dt_bias, initial_state, parts, dt_softplus, reverse)
    with torch.cuda.device_of(x):
        return scan_forward(inputs, cu_seqlens, ScanConfig(*config))


@torch.library.register_fake(_forward)
def _(
    x, dt, A, B, C, D, z, dt_bias, initial_state, cu_seqlens, parts, dt_softplus, reverse, config
):  # fmt: skip
    batch, length, d_inner = x.shape
    if cu_seqlens is None:
        sequences, chunks = batch, batch * -(-length // config[0])
    else:
        sequences = cu_seqlens.shape[0] - 1
        chunks = length // config[0] + sequences
    y = x.new_empty(batch, length, d_inner)
    final_state = x.new_empty(sequences, A.shape[1], d_inner, dtype=torch.float32).mT
    return y, final_state, x.new_empty(chunks, A.shape[1], d_inner, dtype=torch.float32)


@torch.library.impl("bioaudio::selective_scan_backward", ("cpu", "cuda"))
def _(
    dy, d_final, x, dt, A, B, C, D, z, dt_bias, initial_state, cu_seqlens, states, parts, dt_softplus,
    reverse, config,
):  # fmt: skip
    inputs = ScanInputs(x, dt, A, B, C, D, z, dt_bias, initial_state, parts, dt_softplus, reverse)
    with torch.cuda.device_of(x):
        return list(scan_backward(inputs, cu_seqlens, states, dy, d_final, ScanConfig(*config)))


@torch.library.register_fake(_backward)
def _(
    dy, d_final, x, dt, A, B, C, D, z, dt_bias, initial_state, cu_seqlens, states, parts, dt_softplus,
    reverse, config,
):  # fmt: skip
    batch, _, d_inner = x.shape
    sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1

    def single(*shape: int) -> Tensor:
        return x.new_empty(shape, dtype=torch.float32)

    return [
        x.new_empty(x.shape),
        x.new_empty(dt.shape, dtype=dt.dtype),
        single(A.shape[1], d_inner).mT,
        single(*B.shape) if B.ndim == 2 else x.new_empty(B.shape, dtype=B.dtype),
        single(*C.shape) if C.ndim == 2 else x.new_empty(C.shape, dtype=C.dtype),
        single(d_inner),
        x.new_empty(0) if z is None else x.new_empty(z.shape, dtype=z.dtype),
        single(d_inner),
        single(sequences, A.shape[1], d_inner).mT,
    ]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, cu_seqlens, ctx.parts, ctx.dt_softplus, ctx.reverse, ctx.config = inputs
    ctx.save_for_backward(*tensors, cu_seqlens, output[2])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, dy: Tensor | None, d_final: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    *tensors, cu_seqlens, states = ctx.saved_tensors
    if dy is None:
        dy = torch.zeros((), dtype=tensors[0].dtype, device=tensors[0].device).expand(tensors[0].shape)
    gradients = _backward(
        dy, d_final, *tensors, cu_seqlens, states, ctx.parts, ctx.dt_softplus, ctx.reverse, ctx.config
    )
    cast = [
        None if tensor is None else gradient.to(tensor.dtype)
        for tensor, gradient in zip(tensors, gradients, strict=True)
    ]
    return *cast, None, None, None, None, None


register_autograd(_forward, _differentiate, _setup_context)
