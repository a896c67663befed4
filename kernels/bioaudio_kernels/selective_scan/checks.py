"""What the scan and its step accept; anything else ends in a ValueError that names the argument."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from bioaudio_kernels.inputs import check_inputs, dtype_name
from bioaudio_kernels.packed import check_cu_seqlens
from bioaudio_kernels.shapes import check_shapes

_MAY_BE_COMPLEX = ("A", "B", "C", "initial_state", "state")


def check_scan(op: str, tensors: Mapping[str, Tensor | None], cu_seqlens: Tensor | None) -> None:
    """Check the arguments of `selective_scan`, named as there and in its order.

    Raises:
        ValueError: naming the first argument that does not fit, what it is and what is allowed.
    """
    x = tensors["x"]
    assert x is not None
    shapes = _SCAN_SHAPES
    if cu_seqlens is not None:
        if x.ndim == 3:
            check_cu_seqlens(op, cu_seqlens, x.shape[0], x.shape[1])
        shapes = shapes | {"initial_state": "n_sequences d_inner d_state"}
    check_shapes(op, shapes, list(tensors.values()))
    state = tensors["initial_state"]
    if cu_seqlens is not None and state is not None and state.shape[0] != cu_seqlens.numel() - 1:
        raise ValueError(
            f"{op}: initial_state holds {state.shape[0]} states, expected one for each of the "
            f"{cu_seqlens.numel() - 1} sequences of cu_seqlens"
        )
    _check_maps(op, tensors, grouped_ndim=4)
    _check_dtypes(op, tensors, "initial_state")


def check_step(op: str, tensors: Mapping[str, Tensor | None]) -> None:
    """Check the arguments of `selective_scan_step`, named as there and in its order.

    Raises:
        ValueError: naming the first argument that does not fit, what it is and what is allowed.
    """
    check_shapes(op, _STEP_SHAPES, list(tensors.values()))
    x = tensors["x"]
    assert x is not None
    batch, d_inner = x.shape
    for name in ("B", "C"):
        map = tensors[name]
        if map is not None and map.ndim == 3 and map.shape[0] != batch and map.shape[:2] != (1, d_inner):
            raise ValueError(
                f"{op}: {name} has shape {tuple(map.shape)}, expected (batch={batch}, n_groups, d_state), or "
                f"(1, d_inner={d_inner}, d_state) if it is constant in time"
            )
    _check_maps(op, tensors, grouped_ndim=3)
    _check_dtypes(op, tensors, "state")


def _check_maps(op: str, tensors: Mapping[str, Tensor | None], grouped_ndim: int) -> None:
    """There is a state, and the groups of B and C divide the channels."""
    x, A = tensors["x"], tensors["A"]
    assert x is not None
    assert A is not None
    if A.shape[1] == 0:
        raise ValueError(f"{op}: A has shape {tuple(A.shape)}, without states; d_state must be at least 1")
    for name in ("B", "C"):
        map = tensors[name]
        if map is not None and map.ndim == grouped_ndim:
            d_inner, n_groups = x.shape[-1], map.shape[-2]
            if n_groups == 0 or d_inner % n_groups:
                raise ValueError(f"{op}: {name} has n_groups={n_groups}, which must divide d_inner={d_inner}")


def _check_dtypes(op: str, tensors: Mapping[str, Tensor | None], state: str) -> None:
    check_inputs(op, tensors, _MAY_BE_COMPLEX)
    A = tensors["A"]
    assert A is not None
    with_complex_A = A.is_complex()
    for name in ("B", "C", state):
        tensor = tensors[name]
        if tensor is None or tensor.is_complex() == with_complex_A:
            continue
        if tensor.is_complex():
            raise ValueError(
                f"{op}: {name} is {dtype_name(tensor.dtype)}, but A is {dtype_name(A.dtype)}; "
                "with a real A it must be real"
            )
        if name == state:
            raise ValueError(
                f"{op}: {name} is {dtype_name(tensor.dtype)}, but A is {dtype_name(A.dtype)}; "
                "with a complex A it must be complex"
            )


_SCAN_SHAPES = {
    "x": "batch length d_inner",
    "dt": "batch length d_inner | d_inner",
    "A": "d_inner d_state",
    "B": "batch length d_state | batch length n_groups_of_B d_state | d_inner d_state",
    "C": "batch length d_state | batch length n_groups_of_C d_state | d_inner d_state",
    "D": "d_inner",
    "z": "batch length d_inner",
    "dt_bias": "d_inner",
    "initial_state": "batch d_inner d_state",
}
_STEP_SHAPES = {
    "x": "batch d_inner",
    "dt": "batch d_inner | d_inner",
    "A": "d_inner d_state",
    "B": "batch d_state | batch_of_B n_groups_of_B d_state",
    "C": "batch d_state | batch_of_C n_groups_of_C d_state",
    "D": "d_inner",
    "z": "batch d_inner",
    "dt_bias": "d_inner",
    "state": "batch d_inner d_state",
}
