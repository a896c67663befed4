"""mamba_ssm's `mamba_inner_fn`: a Mamba block from after its input projection to its output."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Inexact
from torch import Tensor

from bioaudio_kernels.causal_conv1d import causal_conv1d
from bioaudio_kernels.compat.forms import ScanMap
from bioaudio_kernels.compat.scan import complex_of_pairs, time_first
from bioaudio_kernels.recompute import Recompute
from bioaudio_kernels.selective_scan import selective_scan
from bioaudio_kernels.shapes import check_shapes

OP = "mamba_inner_fn"


def mamba_inner_fn(
    xz: Float[Tensor, "batch x_and_z length"],
    conv1d_weight: Float[Tensor, "dim one width"],
    conv1d_bias: Float[Tensor, " dim"] | None,
    x_proj_weight: Float[Tensor, "rows dim"],
    delta_proj_weight: Float[Tensor, "dim rank"],
    out_proj_weight: Float[Tensor, "d_model dim"],
    out_proj_bias: Float[Tensor, " d_model"] | None,
    A: Inexact[Tensor, "dim dstate"],
    B: ScanMap | None = None,
    C: ScanMap | None = None,
    D: Float[Tensor, " dim"] | None = None,
    delta_bias: Float[Tensor, " dim"] | None = None,
    B_proj_bias: Float[Tensor, " numbers"] | None = None,
    C_proj_bias: Float[Tensor, " numbers"] | None = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
    b_rms_weight: Float[Tensor, " numbers"] | None = None,
    c_rms_weight: Float[Tensor, " numbers"] | None = None,
    dt_rms_weight: Float[Tensor, " dim"] | None = None,
    b_c_dt_rms_eps: float = 1e-6,
) -> Float[Tensor, "batch length d_model"]:
    """Convolution, projections to delta, B and C, scan, gate and output projection, as mamba_ssm fuses them.

    The halves of xz are the input of the convolution and the gate. x_proj gives for each step, in this order,
    `rank` numbers from which delta_proj makes delta, then B, then C: dstate numbers each, or with a complex A
    dstate (real, imaginary) pairs. Under autocast the projections run in its dtype.

    Args:
        xz: (batch, 2 dim, length).
        conv1d_weight: (dim, 1, width), as of `torch.nn.Conv1d`.
        conv1d_bias: (dim,) or None.
        x_proj_weight: (rank + dstate numbers for each of B and C, dim).
        delta_proj_weight: (dim, rank).
        out_proj_weight: (d_model, dim).
        out_proj_bias: (d_model,) or None.
        A, D, delta_bias, delta_softplus: as of `selective_scan_fn`.
        B, C: as of `selective_scan_fn`; None takes them from x_proj.
        B_proj_bias, C_proj_bias: added to B and C from x_proj, as many numbers as those have.
        checkpoint_lvl: 1 makes the convolution's output and delta again in the backward pass instead of
            keeping them; 0 keeps them. torch.compile decides for itself.
        b_rms_weight, c_rms_weight, dt_rms_weight: weights with which B, C (varying in time) and delta (before
            its bias) pass through an RMS norm; None leaves it out.
        b_c_dt_rms_eps: epsilon of those norms.

    Returns:
        (batch, length, d_model).

    Raises:
        ValueError: naming the argument that does not fit, what it is and what is allowed.
    """
    if checkpoint_lvl not in (0, 1):
        raise ValueError(f"{OP}: checkpoint_lvl={checkpoint_lvl!r}, allowed are 0 and 1")
    numbers = A.shape[-1] * (2 if A.is_complex() else 1)
    tensors = {
        "A": A,
        "conv1d_weight": conv1d_weight,
        "conv1d_bias": conv1d_bias,
        "x_proj_weight": x_proj_weight,
        "delta_proj_weight": delta_proj_weight,
        "out_proj_weight": out_proj_weight,
        "out_proj_bias": out_proj_bias,
        "D": D,
        "delta_bias": delta_bias,
        "dt_rms_weight": dt_rms_weight,
        "B_proj_bias": B_proj_bias,
        "C_proj_bias": C_proj_bias,
        "b_rms_weight": b_rms_weight,
        "c_rms_weight": c_rms_weight,
    }
    _check(xz, tensors, (B is None) + (C is None), numbers)
    rank = delta_proj_weight.shape[1]
    eps = b_c_dt_rms_eps
    x, z = xz.mT.chunk(2, -1)
    recompute = Recompute(active=checkpoint_lvl == 1)

    def convolve() -> Tensor:
        return causal_conv1d(x, conv1d_weight.squeeze(1), conv1d_bias, activation="silu")[0]

    def project_delta() -> Tensor:
        return F.linear(projected[..., :rank], delta_proj_weight)

    with recompute:
        u = recompute.make_again(convolve(), convolve)
        projected = F.linear(u, x_proj_weight)
        delta = recompute.make_again(project_delta(), project_delta)
        if dt_rms_weight is not None:
            delta = recompute.make_again(
                _rms_norm(delta, dt_rms_weight, eps), lambda: _rms_norm(project_delta(), dt_rms_weight, eps)
            )
        if B is None:
            B = _map_of_steps(projected[..., rank : rank + numbers], B_proj_bias, b_rms_weight, eps, A)
        else:
            B = _given_map("B", B, b_rms_weight, eps, A, xz.shape[2])
        if C is None:
            C = _map_of_steps(projected[..., -numbers:], C_proj_bias, c_rms_weight, eps, A)
        else:
            C = _given_map("C", C, c_rms_weight, eps, A, xz.shape[2])
        y, _ = selective_scan(u, delta, A, B, C, D, z, delta_bias, dt_softplus=delta_softplus)
        if out_proj_bias is not None:  # transformers gives it in float32 beside bfloat16 weights
            out_proj_bias = out_proj_bias.to(out_proj_weight.dtype)
        return F.linear(y, out_proj_weight, out_proj_bias)


def _map_of_steps(
    numbers: Tensor, bias: Tensor | None, rms_weight: Tensor | None, eps: float, A: Tensor
) -> Tensor:
    """B or C (batch, length, dstate) from the numbers that x_proj gives for it."""
    if bias is not None:
        numbers = numbers + bias.to(numbers.dtype)
    if rms_weight is not None:
        numbers = _rms_norm(numbers, rms_weight, eps)
    return complex_of_pairs(numbers) if A.is_complex() else numbers


def _given_map(
    name: str, map: Tensor, rms_weight: Tensor | None, eps: float, A: Tensor, length: int
) -> Tensor:
    map = time_first(OP, name, map, A, length)
    if rms_weight is None:
        return map
    if map.ndim == 2 or map.is_complex():
        raise ValueError(
            f"{OP}: {name.lower()}_rms_weight normalises a {name} that is real and varies in time; "
            f"the given one has shape {tuple(map.shape)} and dtype {map.dtype}"
        )
    return _rms_norm(map, rms_weight, eps)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """In float32, or float64 if x is; the result has the dtype of x."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


def _check(xz: Tensor, tensors: dict[str, Tensor | None], maps_from_projection: int, numbers: int) -> None:
    """Everything but B and C; `numbers` is how many x_proj gives for one of those."""
    check_shapes(OP, _AXES, [tensors[name] for name in _AXES])
    A, rows, delta = tensors["A"], tensors["x_proj_weight"], tensors["delta_proj_weight"]
    assert A is not None
    assert rows is not None
    assert delta is not None
    if xz.ndim != 3 or xz.shape[1] != 2 * A.shape[0]:
        raise ValueError(
            f"{OP}: xz has shape {tuple(xz.shape)}, expected (batch, 2 * dim={2 * A.shape[0]}, length)"
        )
    for name in ("B_proj_bias", "C_proj_bias", "b_rms_weight", "c_rms_weight"):
        tensor = tensors[name]
        if tensor is not None and tensor.shape != (numbers,):
            raise ValueError(f"{OP}: {name} has shape {tuple(tensor.shape)}, expected ({numbers},)")
    needed = delta.shape[1] + maps_from_projection * numbers
    if rows.shape[0] < needed:
        raise ValueError(
            f"{OP}: x_proj_weight has {rows.shape[0]} rows, expected {needed}: {delta.shape[1]} for delta "
            f"and {numbers} for each of B and C that is not given"
        )


_AXES = {
    "A": "dim dstate",
    "conv1d_weight": "dim one width",
    "conv1d_bias": "dim",
    "x_proj_weight": "rows dim",
    "delta_proj_weight": "dim rank",
    "out_proj_weight": "d_model dim",
    "out_proj_bias": "d_model",
    "D": "dim",
    "delta_bias": "dim",
    "dt_rms_weight": "dim",
}
