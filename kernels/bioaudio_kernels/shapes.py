"""Shape checks of the public ops: a wrong shape must end in a sentence, not in memory read out of bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import torch
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
    # torch.compile cannot trace a look-up in the cache.
    forms_of = _forms.__wrapped__ if torch.compiler.is_compiling() else _forms
    sizes: dict[str, int] = {}
    for (name, forms), tensor in zip(expected.items(), tensors, strict=True):
        if tensor is None:
            continue
        shape = tensor.shape
        axes = forms_of(forms).get(len(shape))
        fits = axes is not None
        for axis, size in zip(axes or (), shape, strict=False):
            if sizes.setdefault(axis, size) != size:
                fits = False
                break
        if not fits:
            shapes = " or ".join(f"({_known(axes, sizes)})" for axes in forms_of(forms).values())
            raise ValueError(f"{op}: {name} has shape {tuple(shape)}, expected {shapes}")


@cache
def _forms(forms: str) -> dict[int, tuple[str, ...]]:
    """The axes of each form, by how many they are."""
    split = (tuple(form.split()) for form in forms.split("|"))
    return {len(axes): axes for axes in split}


def _known(axes: Sequence[str], sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{axis}={sizes[axis]}" if axis in sizes else axis for axis in axes)
