"""The selective scan on Triton as PyTorch operators: differentiable, deterministic, one node of a graph."""

# No `from __future__ import annotations` here: torch reads the operators' schemas from real annotations.

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bioaudio_kernels.selective_scan.triton_config import ScanConfig, choose_config
from bioaudio_kernels.selective_scan.triton_launch import ScanInputs
from bioaudio_kernels.selective_scan.triton_scan import scan_backward, scan_forward


def selective_scan_triton(
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
    *,
    config: ScanConfig | None = None,
) -> tuple[Float[Tensor, "batch length d_inner"], Float[Tensor, "batch d_inner d_state"]]:
    """See `selective_scan`. float32, bfloat16 or float16, each argument its own; any strides; float32 states.

    `config` overrides `choose_config`, for benchmarks and tests.
    """
    batch, length, d_inner = x.shape
    if A.shape[1] == 0:
        raise ValueError(
            "selective_scan: A has no states (d_inner, 0); the triton backend needs at least one"
        )
    if x.numel() == 0:
        if initial_state is None:
            initial_state = x.new_zeros(batch, *A.shape, dtype=torch.float32)
        return torch.empty_like(x), initial_state.clone()
    if config is None:
        config = choose_config(batch, length, d_inner)
    y, final_state, _ = _forward(x, dt, A, B, C, D, z, dt_bias, initial_state, dt_softplus, config)
    return y, final_state


def selective_scan_step_triton(
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
    """One time step: the scan of a sequence of length one, by the same kernel."""
    y, state = selective_scan_triton(
        x.unsqueeze(1),
        dt.unsqueeze(1),
        A,
        B.unsqueeze(1),
        C.unsqueeze(1),
        D,
        z.unsqueeze(1) if z is not None else None,
        dt_bias,
        state,
        dt_softplus,
    )
    return y.squeeze(1), state


@torch.library.custom_op("bioaudio::selective_scan", mutates_args=())
def _forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
    dt_softplus: bool,
    config: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = ScanInputs(x, dt, A, B, C, D, z, dt_bias, initial_state, dt_softplus)
    with torch.cuda.device_of(x):
        return scan_forward(inputs, ScanConfig(*config))


@_forward.register_fake
def _(x, dt, A, B, C, D, z, dt_bias, initial_state, dt_softplus, config):
    batch, length, d_inner = x.shape
    d_state = A.shape[1]
    n_chunks = -(-length // config[0])
    y = x.new_empty(batch, length, d_inner)
    final_state = x.new_empty(batch, d_state, d_inner, dtype=torch.float32).mT
    states = x.new_empty(batch, n_chunks if n_chunks > 1 else 0, d_state, d_inner, dtype=torch.float32)
    return y, final_state, states


@torch.library.custom_op("bioaudio::selective_scan_backward", mutates_args=())
def _backward(
    dy: Tensor,
    d_final: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
    states: Tensor,
    dt_softplus: bool,
    config: Sequence[int],
) -> list[Tensor]:
    inputs = ScanInputs(x, dt, A, B, C, D, z, dt_bias, initial_state, dt_softplus)
    with torch.cuda.device_of(x):
        return list(scan_backward(inputs, states, dy, d_final, ScanConfig(*config)))


@_backward.register_fake
def _(dy, d_final, x, dt, A, B, C, D, z, dt_bias, initial_state, states, dt_softplus, config):
    batch, _, d_inner = x.shape
    d_state = A.shape[1]

    def single(*shape: int) -> Tensor:
        return x.new_empty(shape, dtype=torch.float32)

    return [
        x.new_empty(x.shape),
        x.new_empty(dt.shape, dtype=dt.dtype),
        single(d_state, d_inner).mT,
        x.new_empty(B.shape, dtype=B.dtype),
        x.new_empty(C.shape, dtype=C.dtype),
        single(d_inner),
        single(0) if z is None else x.new_empty(z.shape, dtype=z.dtype),
        single(d_inner),
        single(batch, d_state, d_inner).mT,
    ]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, dt_softplus, config = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.dt_softplus, ctx.config = dt_softplus, config
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, dy: Tensor | None, d_final: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    *tensors, states = ctx.saved_tensors
    if dy is None:
        dy = torch.zeros((), dtype=tensors[0].dtype, device=tensors[0].device).expand(tensors[0].shape)
    gradients = _backward(dy, d_final, *tensors, states, ctx.dt_softplus, ctx.config)
    cast = [
        None if tensor is None else gradient.to(tensor.dtype)
        for tensor, gradient in zip(tensors, gradients, strict=True)
    ]
    return *cast, None, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)
