"""Selective scan (S6, Mamba): a state-space recurrence whose step size and input and output maps vary."""

from __future__ import annotations

from functools import partial
from typing import Any

from jaxtyping import Float, Inexact, Int
from torch import Tensor
from torch._compile import _disable_dynamo

from bioaudio_kernels.backend import Backend, resolve_backend
from bioaudio_kernels.ranks import Ranks
from bioaudio_kernels.selective_scan.across_ranks import TwoPasses, scan_across_ranks
from bioaudio_kernels.selective_scan.checks import check_scan, check_step
from bioaudio_kernels.selective_scan.forms import ScanDt, ScanMap, StepDt, StepMap
from bioaudio_kernels.selective_scan.reference import (
    selective_scan_reference,
    selective_scan_step_reference,
    state_dtype,
)

__all__ = ["selective_scan", "selective_scan_step"]


def selective_scan(
    x: Float[Tensor, "batch length d_inner"],
    dt: ScanDt,
    A: Inexact[Tensor, "d_inner d_state"],
    B: ScanMap,
    C: ScanMap,
    D: Float[Tensor, " d_inner"] | None = None,
    z: Float[Tensor, "batch length d_inner"] | None = None,
    dt_bias: Float[Tensor, " d_inner"] | None = None,
    initial_state: Inexact[Tensor, "n_states d_inner d_state"] | None = None,
    *,
    cu_seqlens: Int[Tensor, " borders"] | None = None,
    reverse: bool = False,
    dt_softplus: bool = True,
    backend: Backend = "auto",
    ranks: Ranks | None = None,
) -> tuple[Float[Tensor, "batch length d_inner"], Inexact[Tensor, "n_states d_inner d_state"]]:
    """Run the selective state-space recurrence over a sequence (Mamba, arXiv 2312.00752, Algorithm 2).

        delta_t = softplus(dt_t + dt_bias)
        h_t     = exp(delta_t A) h_{t-1} + delta_t B_t x_t
        y_t     = (C_t . h_t + D x_t) * silu(z_t)

    With a complex A each state stands for a conjugate pair, and 2 Re(C_t . h_t) takes the place of C_t . h_t
    (S4D, arXiv 2206.11893). States and decays are float32, or complex64, whatever the dtype of x (float64 and
    complex128 on the reference). Gradients reach every floating argument, `initial_state` included, from y
    and from the final state. Any strides; length 0 gives back the state.

    Args:
        x: input of the state space, (batch, length, d_inner).
        dt: step size before bias and softplus, (batch, length, d_inner), or (d_inner,) if constant in time.
        A: diagonal of the state matrix, with negative real part, (d_inner, d_state); real or complex.
        B: input map of each step, (batch, length, d_state); with groups (batch, length, n_groups, d_state),
            where channel d belongs to group d // (d_inner / n_groups); or constant in time, a row for each
            channel, (d_inner, d_state). May be complex if A is.
        C: output map of each step, in any form of B, which need not be the form that B has.
        D: skip connection, (d_inner,); None leaves it out.
        z: gate, (batch, length, d_inner); None leaves it out.
        dt_bias: added to dt before the softplus, (d_inner,); None leaves it out.
        initial_state: h_0, (batch, d_inner, d_state), or (n_sequences, d_inner, d_state) beside `cu_seqlens`;
            complex if A is. None means zeros.
        cu_seqlens: (n_sequences + 1,) int32 or int64, non-decreasing from 0 to length: the single row of the
            batch holds sequences one after another, sequence i from step cu_seqlens[i] to
            cu_seqlens[i + 1] - 1, each with a state of its own. An empty sequence gives back its state.
        reverse: let time run from the last step (of each sequence) to the first: the initial state enters at
            the end, the final state is the one after step 0.
        dt_softplus: whether delta is softplus(dt + dt_bias) or dt + dt_bias itself.
        backend: "auto", "reference", "cpu" or "triton"; see `resolve_backend`.
        ranks: the processes that share the sequence: the tensors are this rank's shard of it, and every rank
            calls with its own. `initial_state` and the final state, and the gradients of both, are those of
            the whole sequence and the same on every rank; the other gradients are this shard's part, to be
            added over the ranks. With `cu_seqlens`, the borders of the shard, states are those of its
            sequences, and the first of them is always the rest of the rank before's last one, even if nothing
            of it is left: where a sequence begins with a shard, that starts with an empty sequence. What
            `initial_state` holds for the first is read on rank 0 alone. Lengths may differ between ranks.

    Returns:
        y (batch, length, d_inner) in the dtype of x, and the final state, shaped like `initial_state`.

    Raises:
        ValueError: if an argument has a wrong shape, dtype or device, cu_seqlens holds no borders, or the
            backend cannot serve these tensors; if a shard is empty, or `ranks` is given with `reverse`.
    """
    tensors = (x, dt, A, B, C, D, z, dt_bias, initial_state)
    check_scan("selective_scan", dict(zip(_SCAN_ARGUMENTS, tensors, strict=True)), cu_seqlens)
    chosen = resolve_backend("selective_scan", backend, *tensors)
    if ranks is not None:
        if reverse or x.numel() == 0:
            what = "reverse=True" if reverse else f"an x of shape {tuple(x.shape)} on rank {ranks.rank}"
            raise ValueError(f"selective_scan: ranks need time to run forwards and steps on each; got {what}")
        return _across_ranks(chosen, tensors, dt_softplus, ranks, cu_seqlens)
    if chosen == "triton":
        from bioaudio_kernels.selective_scan.triton_op import selective_scan_triton

        return selective_scan_triton(*tensors, dt_softplus, cu_seqlens=cu_seqlens, reverse=reverse)
    if chosen == "cpu":
        from bioaudio_kernels.selective_scan.cpu import selective_scan_cpu

        return selective_scan_cpu(*tensors, dt_softplus, cu_seqlens=cu_seqlens, reverse=reverse)
    return selective_scan_reference(*tensors, dt_softplus, cu_seqlens=cu_seqlens, reverse=reverse)


def _scan_across_ranks(
    backend: str, tensors: tuple[Any, ...], dt_softplus: bool, ranks: Ranks, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor]:
    if backend == "triton":
        from bioaudio_kernels.selective_scan.triton_across_ranks import selective_scan_triton_across_ranks

        return selective_scan_triton_across_ranks(
            *tensors, dt_softplus=dt_softplus, ranks=ranks, cu_seqlens=cu_seqlens
        )
    if backend == "cpu":
        from bioaudio_kernels.selective_scan.cpu import selective_scan_cpu as scan
    else:
        scan = selective_scan_reference
    rates = tensors[2].to(state_dtype(*tensors))
    pieces = TwoPasses(partial(scan, dt_softplus=dt_softplus, cu_seqlens=cu_seqlens), dt_softplus)
    return scan_across_ranks(pieces, ranks, tensors[:8], rates, tensors[8], cu_seqlens)


# torch.compile makes a graph before the exchange, and one after it. (`torch.compiler.disable` would load all
# the machinery of torch.compile right here.)
_across_ranks: Any = _disable_dynamo(_scan_across_ranks)


def selective_scan_step(
    x: Float[Tensor, "batch d_inner"],
    dt: StepDt,
    A: Inexact[Tensor, "d_inner d_state"],
    B: StepMap,
    C: StepMap,
    D: Float[Tensor, " d_inner"] | None,
    z: Float[Tensor, "batch d_inner"] | None,
    dt_bias: Float[Tensor, " d_inner"] | None,
    state: Inexact[Tensor, "batch d_inner d_state"],
    *,
    dt_softplus: bool = True,
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "batch d_inner"], Inexact[Tensor, "batch d_inner d_state"]]:
    """One time step of `selective_scan`, for generation: returns y and the new state; `state` is not changed.

    Arguments are those of `selective_scan` without the length axis, and `state` is required. A B or C that
    is constant in time has a leading axis of one instead: (1, d_inner, d_state).

    Raises:
        ValueError: if an argument has a wrong shape, dtype or device, or the backend cannot serve these
            tensors.
    """
    tensors = (x, dt, A, B, C, D, z, dt_bias, state)
    check_step("selective_scan_step", dict(zip(_STEP_ARGUMENTS, tensors, strict=True)))
    if resolve_backend("selective_scan_step", backend, *tensors) == "triton":
        from bioaudio_kernels.selective_scan.triton_step import selective_scan_step_triton

        return selective_scan_step_triton(*tensors, dt_softplus)
    return selective_scan_step_reference(*tensors, dt_softplus)


_SCAN_ARGUMENTS = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state")
_STEP_ARGUMENTS = (*_SCAN_ARGUMENTS[:-1], "state")
