"""The compiled CPU scan as torch operators: visible to autograd, to torch.compile and to opcheck."""

# No `from __future__ import annotations` here: torch reads the operators' schemas from real annotations.
import torch
from jaxtyping import Float
from torch import Tensor

from bioaudio_kernels.blocks import TILE, block_count
from bioaudio_kernels.compiled import run_tasks
from bioaudio_kernels.flat import empty_float32, flat, flat_rows
from bioaudio_kernels.lane_math import LOG2_E
from bioaudio_kernels.selective_scan.cpu_backward import backward
from bioaudio_kernels.selective_scan.cpu_forward import forward
from bioaudio_kernels.selective_scan.reference import selective_scan_reference


def selective_scan_cpu(
    x: Float[Tensor, "batch length d_inner"],
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Float[Tensor, " d_inner"] | None = None,
    z: Float[Tensor, "batch length d_inner"] | None = None,
    dt_bias: Float[Tensor, " d_inner"] | None = None,
    initial_state: Tensor | None = None,
    dt_softplus: bool = True,
    *,
    cu_seqlens: Tensor | None = None,
    reverse: bool = False,
):
    """See `selective_scan`. Differentiable once; the first call on a machine compiles for some seconds.

    Computes in float32. delta * A must stay below 88, which any negative A and positive delta do.
    """
    plain = dt.ndim == B.ndim == C.ndim == 3 and not A.is_complex()
    if not plain or reverse or cu_seqlens is not None:
        return selective_scan_reference(
            x, dt, A, B, C, D, z, dt_bias, initial_state, dt_softplus, cu_seqlens=cu_seqlens, reverse=reverse
        )
    given = (x, dt, A, B, C, D, z, dt_bias, initial_state)
    keep = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in given)
    y, final_state, _ = _scan(*given, dt_softplus, keep)
    return y, final_state


@torch.library.custom_op("bioaudio::selective_scan_cpu", mutates_args=())
def _scan(
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
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state, and if `keep` the state before each tile (batch, tiles, d_state, d_inner)."""
    _, final_state, checkpoints = _empty_results(x, A, keep)
    inputs, strides = _kernel_inputs(x, dt, A, B, C, D, z, dt_bias)
    state = final_state.new_zeros(x.shape[0], A.shape[1], A.shape[0])
    if initial_state is not None:
        state.copy_(initial_state.mT)
    y32 = empty_float32(*x.shape)
    options = (dt_softplus, z is not None, keep)
    results = (flat(state), flat(checkpoints), flat(y32))
    run_tasks(forward, _tasks(x), _work(x, A), _sizes(x, A), inputs, strides, options, *results)
    return y32.to(x.dtype), state.mT.contiguous(), checkpoints


@_scan.register_fake
def _(x, dt, A, B, C, D, z, dt_bias, initial_state, dt_softplus, keep):
    return _empty_results(x, A, keep)


@torch.library.custom_op("bioaudio::selective_scan_cpu_backward", mutates_args=())
def _scan_backward(
    dy: Tensor,
    dfinal_state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    checkpoints: Tensor,
    dt_softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, dt, A, B, C, D, z, dt_bias and the initial state; float32."""
    batch, length, d_inner = x.shape
    inputs, strides = _kernel_inputs(x, dt, A, B, C, D, z, dt_bias)
    flat_dy, dy_strides = flat_rows(dy)
    dstate = dfinal_state.to(torch.float32).mT.clone(memory_format=torch.contiguous_format)
    d_state = A.shape[1]
    dx, ddt, dz = (empty_float32(batch, length, d_inner) for _ in range(3))
    dA = empty_float32(batch, d_state, d_inner)
    dB, dC = (empty_float32(block_count(d_inner), batch, length, d_state) for _ in range(2))
    dD, ddt_bias = (empty_float32(batch, d_inner) for _ in range(2))
    gradients = tuple(flat(gradient) for gradient in (dx, ddt, dz, dA, dB, dC, dD, ddt_bias))
    options = (dt_softplus, z is not None)
    given = (inputs, strides, options, flat(checkpoints), flat_dy, dy_strides)
    run_tasks(backward, _tasks(x), _work(x, A), _sizes(x, A), *given, flat(dstate), gradients)
    state_gradient = dstate.mT.contiguous()
    return (
        dx,
        ddt,
        dA.sum(0).mT.contiguous(),
        dB.sum(0),
        dC.sum(0),
        dD.sum(0),
        dz,
        ddt_bias.sum(0),
        state_gradient,
    )


@_scan_backward.register_fake
def _(dy, dfinal_state, x, dt, A, B, C, D, z, dt_bias, checkpoints, dt_softplus):
    d_inner = x.new_empty(x.shape[2], dtype=torch.float32)
    row, column, rate = (t.new_empty(t.shape, dtype=torch.float32) for t in (x, B, A))
    state = dfinal_state.new_empty(dfinal_state.shape, dtype=torch.float32)
    like = torch.empty_like
    return row, like(row), rate, column, like(column), d_inner, like(row), like(d_inner), state


def _setup_context(ctx, inputs, output) -> None:
    *tensors, initial_state, dt_softplus, _ = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.set_materialize_grads(False)  # or zeros would be made for the checkpoints too
    ctx.dt_softplus = dt_softplus
    ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (*tensors, initial_state)]


def _differentiate(ctx, dy, dfinal_state, _):
    *tensors, checkpoints = ctx.saved_tensors
    x, A = tensors[0], tensors[2]
    if dy is None:
        dy = torch.zeros_like(x)
    if dfinal_state is None:
        dfinal_state = x.new_zeros(x.shape[0], *A.shape, dtype=torch.float32)
    gradients = _scan_backward(dy, dfinal_state, *tensors, checkpoints, ctx.dt_softplus)
    given = [
        None if dtype is None else gradient.to(dtype)
        for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
    ]
    return *given, None, None


_scan.register_autograd(_differentiate, setup_context=_setup_context)


def _empty_results(x: Tensor, A: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, d_inner = x.shape
    tiles = -(-length // TILE) if keep else 0
    y = x.new_empty(x.shape)
    final_state = x.new_empty(batch, d_inner, A.shape[1], dtype=torch.float32)
    return y, final_state, x.new_empty(batch, tiles, A.shape[1], d_inner, dtype=torch.float32)


def _kernel_inputs(x, dt, A, B, C, D, z, dt_bias):
    """What both kernels read, and its strides; a missing D or dt_bias is zero, a missing z is not read."""
    zeros = x.new_zeros(x.shape[2])
    rows = [flat_rows(tensor) for tensor in (x, dt, x if z is None else z)]
    rates = flat(A.detach().to(torch.float32).mT * float(LOG2_E))
    skip, bias = (flat(zeros if tensor is None else tensor) for tensor in (D, dt_bias))
    inputs = (rows[0][0], rows[1][0], rates, flat(B), flat(C), skip, rows[2][0], bias)
    return inputs, tuple(strides for _, strides in rows)


def _sizes(x: Tensor, A: Tensor) -> tuple[int, int, int, int]:
    batch, length, d_inner = x.shape
    return batch, length, d_inner, A.shape[1]


def _work(x: Tensor, A: Tensor) -> int:
    return x.numel() * A.shape[1]


def _tasks(x: Tensor) -> int:
    return x.shape[0] * block_count(x.shape[2])
