"""Shape checks of the public ops: a wrong shape must end in a sentence, not in memory read out of bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


def check_shapes(op: str, expected: Mapping[str, str], tensors: Sequence[Tensor | None]) -> None:
    """Check that tensors have the named axes, and that an axis has one size wherever it is named.

    Args:
        op: name of the op, for messages.
        expected: argument name -> its axes, separated by blanks ("batch length d_inner"); where an argument
            has several forms, they differ in their number of axes and stand between bars ("batch x | x").
        tensors: the arguments, in the order of `expected`; None is skipped.

    Raises:
        ValueError: naming the first argument that does not fit, its shape and what was expected.
    """
    sizes: dict[str, int] = {}
    for (name, forms), tensor in zip(expected.items(), tensors, strict=True):
        if tensor is None:
            continue
        allowed = [form.split() for form in forms.split("|")]
        fits = any(
            len(axes) == tensor.ndim
            and all(sizes.setdefault(*pair) == pair[1] for pair in zip(axes, tensor.shape, strict=True))
            for axes in allowed
        )
        if not fits:
            shapes = " or ".join(f"({_known(axes, sizes)})" for axes in allowed)
            raise ValueError(f"{op}: {name} has shape {tuple(tensor.shape)}, expected {shapes}")


def _known(axes: Sequence[str], sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{axis}={sizes[axis]}" if axis in sizes else axis for axis in axes)
