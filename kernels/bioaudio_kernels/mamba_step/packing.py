"""The weights of a stack of Mamba blocks in one array, in the order in which a step reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float32]
LOG2_E = 1.4426950408889634


class StageSizes(NamedTuple):
    """Sizes of every block of a stack."""

    layers: int
    d_model: int
    d_inner: int
    d_state: int
    dt_rank: int
    d_conv: int

    @property
    def selection(self) -> int:
        """Outputs of x_proj, filled up to whole lanes."""
        return -(-(self.dt_rank + 2 * self.d_state) // 8) * 8

    @property
    def of_a_layer(self) -> int:
        """Numbers of one block."""
        d, inner, n = self.d_model, self.d_inner, self.d_state
        vectors = d + inner * (self.d_conv + 1) + 2 * inner + n * inner
        return vectors + 3 * d * inner + inner * self.selection + self.dt_rank * inner


def width_of_panels(outputs: int) -> int:
    """Outputs that a product makes at once."""
    return 32 if outputs % 32 == 0 else 8


def panels(weight: Weights) -> Weights:
    """The weight (outputs, inputs) of a linear layer, panel after panel of outputs, each input by input."""
    outputs, inputs = weight.shape
    return weight.reshape(-1, width_of_panels(outputs), inputs).transpose(0, 2, 1).reshape(-1)


class Block(NamedTuple):
    """Weights of a block and the RMS norm before it, named as in `MambaBlock`: all arrays, or all tensors."""

    norm: Any
    in_proj: Any
    conv_weight: Any
    conv_bias: Any
    x_proj: Any
    dt_proj: Any
    dt_bias: Any
    A: Any
    D: Any
    out_proj: Any


def pack_stage(blocks: Sequence[Block]) -> tuple[StageSizes, Weights]:
    """Sizes and weights (layers * of_a_layer,) of blocks of one size.

    Raises:
        ValueError: if a width is no multiple of 8.
    """
    first = blocks[0]
    d_inner, d_state = first.A.shape
    d_model, rank = len(first.norm), first.dt_proj.shape[1]
    if d_model % 8 or d_inner % 8:
        raise ValueError(f"widths must be multiples of 8, got {d_model} and {d_inner}")
    sizes = StageSizes(len(blocks), d_model, d_inner, d_state, rank, first.conv_weight.shape[1])
    parts: list[Weights] = []
    for block in blocks:
        selection = np.zeros((sizes.selection, d_inner), np.float32)
        selection[: len(block.x_proj)] = block.x_proj
        parts += [
            block.norm,
            panels(block.in_proj),
            block.conv_weight.T.reshape(-1),
            block.conv_bias,
            panels(selection),
            panels(block.dt_proj),
            block.dt_bias,
            (block.A * np.float32(LOG2_E)).T.reshape(-1),
            block.D,
            panels(block.out_proj),
        ]
    return sizes, np.concatenate(parts).astype(np.float32)
