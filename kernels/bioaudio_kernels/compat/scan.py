"""mamba_ssm's `selective_scan_fn`."""

from __future__ import annotations

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from bioaudio_kernels.compat.forms import ScanMap
from bioaudio_kernels.selective_scan import selective_scan
from bioaudio_kernels.shapes import check_shapes


def selective_scan_fn(
    u: Float[Tensor, "batch dim length"],
    delta: Float[Tensor, "batch dim length"],
    A: Inexact[Tensor, "dim dstate"],
    B: ScanMap,
    C: ScanMap,
    D: Float[Tensor, " dim"] | None = None,
    z: Float[Tensor, "batch dim length"] | None = None,
    delta_bias: Float[Tensor, " dim"] | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> (
    Float[Tensor, "batch dim length"]
    | tuple[Float[Tensor, "batch dim length"], Inexact[Tensor, "batch dim dstate"]]
):
    """`selective_scan` with mamba_ssm's arguments and layout.

    Args:
        u: input, (batch, dim, length).
        delta: step size before bias and softplus, (batch, dim, length).
        A: diagonal of the state matrix, (dim, dstate), real or complex.
        B: input map, (dim, dstate), (batch, dstate, length) or (batch, ngroups, dstate, length). With a
            complex A the first is complex, and the others are real with (real, imaginary) pairs along an axis
            of 2 * length.
        C: output map, in any form of B.
        D: skip connection, (dim,).
        z: gate, (batch, dim, length).
        delta_bias: added to delta, (dim,).
        delta_softplus: whether delta then goes through softplus.
        return_last_state: whether to return the last state too; unlike mamba_ssm's, it has a gradient.

    Returns:
        out (batch, dim, length) in the dtype of u; with `return_last_state` also the last state (batch, dim,
        dstate), float32 or complex64.

    Raises:
        ValueError: naming the argument that does not fit, what it is and what is allowed.
    """
    op = "selective_scan_fn"
    steps = "length_and_pairs" if A.is_complex() else "length"
    map_axes = f"dim dstate | batch dstate {steps} | batch ngroups_of_{{}} dstate {steps}"
    expected = {
        "u": "batch dim length",
        "delta": "batch dim length",
        "A": "dim dstate",
        "B": map_axes.format("B"),
        "C": map_axes.format("C"),
        "D": "dim",
        "z": "batch dim length",
        "delta_bias": "dim",
    }
    check_shapes(op, expected, (u, delta, A, B, C, D, z, delta_bias))
    y, last_state = selective_scan(
        u.mT,
        delta.mT,
        A,
        time_first(op, "B", B, A, u.shape[2]),
        time_first(op, "C", C, A, u.shape[2]),
        D,
        None if z is None else z.mT,
        delta_bias,
        dt_softplus=delta_softplus,
    )
    return (y.mT, last_state) if return_last_state else y.mT


def time_first(op: str, name: str, map: Tensor, A: Tensor, length: int) -> Tensor:
    """B or C in our layout: (dim, dstate), (batch, length, dstate) or (batch, length, ngroups, dstate).

    Raises:
        ValueError: if A is complex and the map does not hold complex numbers as mamba_ssm packs them.
    """
    if map.ndim == 2:
        return map
    if A.is_complex():
        if map.is_complex() or map.shape[-1] != 2 * length:
            raise ValueError(
                f"{op}: {name} is {map.dtype} with shape {tuple(map.shape)}; with a complex A its last axis "
                f"must hold length={length} (real, imaginary) pairs of real numbers, {2 * length} in all"
            )
        map = complex_of_pairs(map)
    return map.mT if map.ndim == 3 else map.permute(0, 3, 1, 2)


def complex_of_pairs(pairs: Tensor) -> Tensor:
    """(..., 2 n) real, neighbours being a real and an imaginary part, to (..., n) complex."""
    if pairs.dtype in (torch.bfloat16, torch.float16):
        pairs = pairs.float()
    return torch.complex(*pairs.unflatten(-1, (-1, 2)).unbind(-1))
