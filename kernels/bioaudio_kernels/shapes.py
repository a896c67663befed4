"""Shape checks of the public ops: a wrong shape must end in a sentence, not in memory read out of bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


def check_shapes(op: str, expected: Mapping[str, str], tensors: Sequence[Tensor | None]) -> None:
    """Check that tensors have the named axes, and that an axis has one size wherever it is named.

    Args:
        op: name of the op, for messages.
        expected: argument name -> its axes, separated by blanks ("batch length d_inner").
        tensors: the arguments, in the order of `expected`; None is skipped.

    Raises:
        ValueError: naming the first argument that does not fit, its shape and what was expected.
    """
    sizes: dict[str, int] = {}
    for (name, axes), tensor in zip(expected.items(), tensors, strict=True):
        if tensor is None:
            continue
        names = axes.split()
        fits = tensor.ndim == len(names)
        if fits:
            for axis, size in zip(names, tensor.shape, strict=True):
                fits = fits and sizes.setdefault(axis, size) == size
        if not fits:
            shape = ", ".join(f"{axis}={sizes[axis]}" if axis in sizes else axis for axis in names)
            raise ValueError(f"{op}: {name} has shape {tuple(tensor.shape)}, expected ({shape})")
