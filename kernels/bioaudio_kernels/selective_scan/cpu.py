"""The compiled CPU scan as torch operators: visible to autograd, to torch.compile and to opcheck."""

# No `from __future__ import annotations` here: torch reads the operators' schemas from real annotations.
import numpy as np
import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from bioaudio_kernels.blocks import TILE, block_count
from bioaudio_kernels.compiled import run_tasks
from bioaudio_kernels.flat import empty_float32, flat, flat_rows
from bioaudio_kernels.packed import check_cu_seqlens
from bioaudio_kernels.selective_scan.cpu_backward import backward
from bioaudio_kernels.selective_scan.cpu_forward import forward
from bioaudio_kernels.selective_scan.cpu_layout import (
    as_values,
    channels_a_group,
    from_values,
    map_strides,
    map_values,
    rates_of,
    spans_of,
    zero_map_gradient,
)
from bioaudio_kernels.selective_scan.forms import ScanDt, ScanMap


def selective_scan_cpu(
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
    """See `selective_scan`. Differentiable once; the first call on a machine compiles for some seconds.

    Computes in float32. delta * A must stay below 88, which any negative A and positive delta do.
    """
    given = (x, dt, A, B, C, D, z, dt_bias, initial_state)
    keep = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in given)
    y, final_state, _ = _scan(*given, cu_seqlens, dt_softplus, reverse, keep)
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
    cu_seqlens: Tensor | None,
    dt_softplus: bool,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state, and if `keep` the state before each tile [checkpoint][value][d_inner]."""
    batch, length, d_inner = x.shape
    if cu_seqlens is not None:  # not yet checked in a compiled graph, and bad borders would leave the arrays
        check_cu_seqlens("selective_scan", cu_seqlens, batch, length)
    _, _, checkpoints = _empty_results(x, A, cu_seqlens, keep)
    sizes, inputs, strides = _kernel_inputs(x, dt, A, B, C, D, z, dt_bias)
    spans = spans_of(batch, length, cu_seqlens, reverse)
    state = empty_float32(len(spans), checkpoints.shape[1], d_inner)
    if initial_state is None:
        state.zero_()
    else:
        state.copy_(as_values(initial_state).mT)
    y32 = empty_float32(*x.shape)
    options = (A.is_complex(), dt_softplus, z is not None, keep, _direction(reverse))
    results = (flat(state), flat(checkpoints), flat(y32))
    run_tasks(forward, _tasks(spans, x), _work(x, A), spans, sizes, inputs, strides, options, *results)
    return y32.to(x.dtype), from_values(state.mT.contiguous(), A), checkpoints


@_scan.register_fake
def _(x, dt, A, B, C, D, z, dt_bias, initial_state, cu_seqlens, dt_softplus, reverse, keep):
    return _empty_results(x, A, cu_seqlens, keep)


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
    cu_seqlens: Tensor | None,
    checkpoints: Tensor,
    dt_softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, dt, A, B, C, D, z, dt_bias and the initial state; float32, those of A, B, C and the
    state complex64 if A is complex.
    """
    batch, length, d_inner = x.shape
    sizes, inputs, strides = _kernel_inputs(x, dt, A, B, C, D, z, dt_bias)
    spans = spans_of(batch, length, cu_seqlens, reverse)
    flat_dy, dy_strides = flat_rows(dy)
    dstate = as_values(dfinal_state).mT.clone(memory_format=torch.contiguous_format)
    dx, dz = (empty_float32(*x.shape) for _ in range(2))
    ddt = empty_float32(*dt.shape)  # if constant in time, not written: its gradient is that of dt_bias
    dA = empty_float32(*dstate.shape)
    dB, dC = (zero_map_gradient(given, A, len(spans)) for given in (B, C))
    dD, ddt_bias = (empty_float32(len(spans), d_inner) for _ in range(2))
    slots = (dB[0].numel(), dC[0].numel())
    gradients = (*map(flat, (dx, ddt, dz, dA, dB, dC)), *slots, flat(dD), flat(ddt_bias))
    options = (A.is_complex(), dt_softplus, z is not None, dt.ndim == 3, _direction(reverse))
    arguments = (spans, sizes, inputs, strides, options, flat(checkpoints), flat_dy, dy_strides)
    run_tasks(backward, _tasks(spans, x), _work(x, A), *arguments, flat(dstate), gradients)
    dbias = ddt_bias.sum(0)
    return (
        dx,
        ddt if dt.ndim == 3 else dbias.clone(),
        from_values(dA.sum(0).mT.contiguous(), A),
        from_values(dB.sum(0), A),
        from_values(dC.sum(0), A),
        dD.sum(0),
        dz,
        dbias,
        from_values(dstate.mT.contiguous(), A),
    )


@_scan_backward.register_fake
def _(dy, dfinal_state, x, dt, A, B, C, D, z, dt_bias, cu_seqlens, checkpoints, dt_softplus, reverse):
    dtype = torch.complex64 if A.is_complex() else torch.float32
    dx, ddt, dz = (t.new_empty(t.shape, dtype=torch.float32) for t in (x, dt, x))
    dA, dB, dC, dstate = (t.new_empty(t.shape, dtype=dtype) for t in (A, B, C, dfinal_state))
    dD, dbias = (x.new_empty(x.shape[2], dtype=torch.float32) for _ in range(2))
    return dx, ddt, dA, dB, dC, dD, dz, dbias, dstate


def _setup_context(ctx, inputs, output) -> None:
    *tensors, initial_state, cu_seqlens, dt_softplus, reverse, _ = inputs
    ctx.save_for_backward(*tensors, cu_seqlens, output[2])
    ctx.set_materialize_grads(False)  # or zeros would be made for the checkpoints too
    ctx.options = (dt_softplus, reverse)
    ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (*tensors, initial_state)]


def _differentiate(ctx, dy, dfinal_state, _):
    *tensors, cu_seqlens, checkpoints = ctx.saved_tensors
    x, A = tensors[0], tensors[2]
    if dy is None:
        dy = torch.zeros_like(x)
    if dfinal_state is None:
        n_states = _state_count(x, cu_seqlens)
        dtype = torch.complex64 if A.is_complex() else torch.float32
        dfinal_state = x.new_zeros(n_states, *A.shape, dtype=dtype)
    gradients = _scan_backward(dy, dfinal_state, *tensors, cu_seqlens, checkpoints, *ctx.options)
    pairs = zip(gradients, ctx.dtypes, strict=True)
    return *(None if dtype is None else _cast(gradient, dtype) for gradient, dtype in pairs), *[None] * 4


_scan.register_autograd(_differentiate, setup_context=_setup_context)


def _cast(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    # A real B or C beside a complex A has no imaginary part to move.
    real = gradient.is_complex() and not dtype.is_complex
    return (gradient.real if real else gradient).to(dtype)


def _empty_results(
    x: Tensor, A: Tensor, cu_seqlens: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, d_inner = x.shape
    d_state, is_complex = A.shape[1], A.is_complex()
    n_states = _state_count(x, cu_seqlens)
    y = x.new_empty(x.shape)
    dtype = torch.complex64 if is_complex else torch.float32
    final_state = x.new_empty(n_states, d_inner, d_state, dtype=dtype)
    values = 2 * d_state if is_complex else d_state
    if not keep:
        return y, final_state, x.new_empty(0, values, d_inner, dtype=torch.float32)
    if cu_seqlens is None:
        tiles = batch * -(-length // TILE)
        return y, final_state, x.new_empty(tiles, values, d_inner, dtype=torch.float32)
    # Enough for any borders, which torch.compile does not know; those that stay unused are zero.
    tiles = length // TILE + n_states
    return y, final_state, x.new_zeros(tiles, values, d_inner, dtype=torch.float32)


def _state_count(x, cu_seqlens):  # symbolic under torch.compile
    return x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1


def _kernel_inputs(x, dt, A, B, C, D, z, dt_bias):
    """Sizes, arrays and strides that both kernels read; absent, D and dt_bias are zero and z is not read."""
    zeros = x.new_zeros(x.shape[2])
    dt_rows = flat_rows(dt) if dt.ndim == 3 else (flat(dt), (0, 0))
    rows = [flat_rows(x), dt_rows, flat_rows(x if z is None else z)]
    maps = [map_values(given, A) for given in (B, C)]
    skip, bias = (flat(zeros if tensor is None else tensor) for tensor in (D, dt_bias))
    inputs = (rows[0][0], rows[1][0], flat(rates_of(A)), *map(flat, maps), skip, rows[2][0], bias)
    strides = (*(strides for _, strides in rows), *map(map_strides, maps))
    sizes = (x.shape[1], x.shape[2], A.shape[1], *(channels_a_group(values, x.shape[2]) for values in maps))
    return sizes, inputs, strides


def _direction(reverse: bool) -> int:
    return -1 if reverse else 1


def _work(x: Tensor, A: Tensor) -> int:
    return x.numel() * A.shape[1]


def _tasks(spans: np.ndarray, x: Tensor) -> int:
    return len(spans) * block_count(x.shape[2])
