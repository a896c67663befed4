"""One time step of the selective scan on Triton, as PyTorch operators: into a new state, or over the old one.

`torch.library.define`, not `custom_op`: its calls cost Python a third as much, and at batch 1 the kernel is
done before Python has launched the next one.
"""

from __future__ import annotations

from math import lcm
from typing import Any

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from bioaudio_kernels.selective_scan.forms import StepDt, StepMap
from bioaudio_kernels.selective_scan.reference import selective_scan_step_reference
from bioaudio_kernels.selective_scan.triton_step_kernel import step_kernel


def selective_scan_step_triton(
    x: Float[Tensor, "batch d_inner"],
    dt: StepDt,
    A: Inexact[Tensor, "d_inner d_state"],
    B: StepMap,
    C: StepMap,
    D: Float[Tensor, " d_inner"] | None,
    z: Float[Tensor, "batch d_inner"] | None,
    dt_bias: Float[Tensor, " d_inner"] | None,
    state: Inexact[Tensor, "batch d_inner d_state"],
    dt_softplus: bool = True,
) -> tuple[Float[Tensor, "batch d_inner"], Inexact[Tensor, "batch d_inner d_state"]]:
    """See `selective_scan_step`. Each argument has its own dtype and strides; the new state is float32.

    Differentiable any number of times: the backward pass runs the step again through the reference.
    """
    return _step(x, dt, A, B, C, D, z, dt_bias, state, dt_softplus)


def selective_scan_step_in_place(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    state: Tensor,
    state_rows: Tensor | None = None,
    dt_softplus: bool = True,
) -> Tensor:
    """y of one step; `state`, of any floating dtype, becomes the new state. Not differentiable.

    Arguments are those of `selective_scan_step`, or have heads: x, dt and z (batch, heads, dim), A (heads,
    dim, d_state), B and C (batch, n_groups, d_state) with head h in group h // (heads / n_groups), D and
    dt_bias (heads, dim), state (batch, heads, dim, d_state).

    With `state_rows` (batch,), integer and contiguous, batch element b has its state in state[state_rows[b]];
    where that is negative, y is 0 and no state changes. No two elements may share a row.
    """
    return _step_in_place(x, dt, A, B, C, D, z, dt_bias, state, state_rows, dt_softplus)


def choose_step_block(rows: int, dim: int, d_state: int, is_complex: bool) -> tuple[int, int, int]:
    """Channels and states of a tile, and tiles of a program, for `rows` (batch and heads) of `dim` channels.

    A program is one warp, and takes 512 floats of the state where that leaves 1024 programs (an H100 holds
    some 4000 at a time), else fewer, down to four a lane. A tile has at most 256, or 128 of complex numbers:
    with more, Triton passes the sums over 16 states through shared memory. Blocks of channels are an axis of
    the grid, 65,535 at most.
    """
    block_n = 1 << (d_state - 1).bit_length()
    channel = 2 * block_n if is_complex else block_n
    size = 512
    while size > 128 and rows * dim * channel < 1024 * size:
        size //= 2
    channels = max(1, min(size // channel, 1 << (dim - 1).bit_length()))
    block_d = max(1, min(channels, (128 if is_complex else 256) // channel))
    tiles = channels // block_d
    while dim > 65535 * block_d * tiles:
        tiles *= 2
    return block_d, block_n, tiles


def _launch(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    state: Tensor,
    new_state: Tensor,
    state_rows: Tensor | None,
    dt_softplus: bool,
) -> Tensor:
    """y; fills new_state, which may be `state`. Flat channels are cut into as many heads as B and C need.

    Few Python operations, and none of Triton's helpers, which take microseconds each: a step is a few
    microseconds of work.
    """
    y = x.new_empty(x.shape)
    if y.numel() == 0:
        return y
    *_, d_state = A.shape
    flat = x.ndim == 2
    if flat:
        batch, d_inner = x.shape
        heads = lcm(*[map.shape[1] for map in (B, C) if map.ndim == 3 and map.shape[1] != d_inner])
    else:
        batch, heads, dim = x.shape
        d_inner = heads * dim
    dim = d_inner // heads

    def strides(tensor: Tensor | None, axis: int) -> tuple[int, ...]:
        """With a stride over heads before that of `axis`, the channels."""
        if tensor is None:
            return ()
        s = tensor.stride()
        return (*s[:axis], s[axis] * dim, *s[axis:]) if flat else s

    def map_strides(map: Tensor) -> tuple[tuple[int, ...], int, bool]:
        """Strides (batch, group, channel, state), heads in a group, whether every channel has a row."""
        s = map.stride()
        if map.ndim == 2:
            return (s[0], 0, 0, s[1]), heads, False
        if flat and map.shape[1] == d_inner:
            return (0 if map.shape[0] == 1 else s[0], s[1] * dim, s[1], s[2]), 1, True
        return (s[0], s[1], 0, s[2]), heads // map.shape[1], False

    s_dt = (0, *strides(dt, 0)) if dt.ndim == 1 else strides(dt, 1)
    s_B, heads_per_B, B_by_channel = map_strides(B)
    s_C, heads_per_C, C_by_channel = map_strides(C)
    is_complex = A.is_complex()
    p_new = torch.view_as_real(new_state) if is_complex else new_state
    block_d, block_n, tiles = choose_step_block(batch * heads, dim, d_state, is_complex)
    with torch.cuda.device_of(x):
        step_kernel[batch, -(-dim // (block_d * tiles)), heads](
            x, strides(x, 1), dt, s_dt, _floats(A), strides(A, 0), _floats(B), s_B, _floats(C), s_C,
            D, strides(D, 0), z, strides(z, 1), dt_bias, strides(dt_bias, 0),
            _floats(state), strides(state, 1), p_new, strides(new_state, 1), state_rows,
            y, heads, dim, heads_per_B, heads_per_C,
            N=d_state, BLOCK_D=block_d, BLOCK_N=block_n, TILES=tiles, SOFTPLUS=dt_softplus,
            COMPLEX=is_complex, COMPLEX_B=B.is_complex(), COMPLEX_C=C.is_complex(),
            B_BY_CHANNEL=B_by_channel, C_BY_CHANNEL=C_by_channel, num_warps=1, enable_fp_fusion=True,
        )  # fmt: skip
    return y


def _floats(tensor: Tensor) -> Tensor:
    """What a kernel reads of the tensor: complex numbers are pairs of floats."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


_ARGUMENTS = "Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? dt_bias"
torch.library.define(
    "bioaudio::selective_scan_step", f"({_ARGUMENTS}, Tensor state, bool dt_softplus) -> (Tensor, Tensor)"
)
torch.library.define(
    "bioaudio::selective_scan_step_in_place",
    f"({_ARGUMENTS}, Tensor(a!) state, Tensor? state_rows, bool dt_softplus) -> Tensor",
)
_step = torch.ops.bioaudio.selective_scan_step.default
_step_in_place = torch.ops.bioaudio.selective_scan_step_in_place.default


def _new_state_dtype(state: Tensor) -> torch.dtype:
    return torch.complex64 if state.is_complex() else torch.float32


@torch.library.impl("bioaudio::selective_scan_step", ("cpu", "cuda"))
def _(x, dt, A, B, C, D, z, dt_bias, state, dt_softplus):
    new_state = torch.empty(state.shape, dtype=_new_state_dtype(state), device=x.device)
    y = _launch(x, dt, A, B, C, D, z, dt_bias, state, new_state, None, dt_softplus)
    return y, new_state


@torch.library.register_fake(_step)
def _(x, dt, A, B, C, D, z, dt_bias, state, dt_softplus):
    return x.new_empty(x.shape), x.new_empty(state.shape, dtype=_new_state_dtype(state))


@torch.library.impl("bioaudio::selective_scan_step_in_place", ("cpu", "cuda"))
def _(x, dt, A, B, C, D, z, dt_bias, state, state_rows, dt_softplus):
    torch.autograd.graph.increment_version(state)
    return _launch(x, dt, A, B, C, D, z, dt_bias, state, state, state_rows, dt_softplus)


@torch.library.register_fake(_step_in_place)
def _(x, dt, A, B, C, D, z, dt_bias, state, state_rows, dt_softplus):
    return x.new_empty(x.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.dt_softplus = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, dy: Tensor, d_new_state: Tensor) -> tuple[Tensor | None, ...]:
    create_graph = torch.is_grad_enabled()
    needed = [i for i, needs in enumerate(ctx.needs_input_grad) if needs]
    with torch.enable_grad():
        # Views, so that what one argument owes to another is left to the graph outside.
        tensors: list[Any] = [
            None if tensor is None else tensor.view_as(tensor) for tensor in ctx.saved_tensors
        ]
        given = [*tensors[:-1], tensors[-1].to(_new_state_dtype(tensors[-1]))]
        results = selective_scan_step_reference(*given, dt_softplus=ctx.dt_softplus)
    pairs = [pair for pair in zip(results, (dy, d_new_state), strict=True) if pair[0].requires_grad]
    outputs, output_gradients = zip(*pairs, strict=True)
    found = torch.autograd.grad(
        outputs, [tensors[i] for i in needed], output_gradients, create_graph=create_graph
    )
    gradients: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
    for i, gradient in zip(needed, found, strict=True):
        gradients[i] = gradient
    return tuple(gradients)


torch.library.register_autograd(_step, _differentiate, setup_context=_setup_context)
