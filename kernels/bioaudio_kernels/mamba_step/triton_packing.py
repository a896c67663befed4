"""Weights of a stage, a projection or a head as the Triton step reads them, filled up to powers of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from bioaudio_kernels.integers import next_power_of_2
from bioaudio_kernels.mamba_step.packing import LOG2_E, Block
from bioaudio_kernels.mamba_step.triton_config import LANES, channels_of_a_program, outputs_of_a_program


class TritonSizes(NamedTuple):
    """Sizes of every block of a stage; capitals are filled up, and what the kernels know when compiled."""

    layers: int
    width: int
    """d_model."""
    D: int
    """d_model, filled up."""
    INNER: int
    """d_inner."""
    SEL: int
    """Outputs of x_proj: RANK for dt, a pair of B and C for each of N states, filled up."""
    RANK: int
    """dt_rank."""
    N: int
    """d_state."""
    WIDTH: int
    """d_conv, as it is."""
    K_IN: int
    """Of in_proj; see `matrix_lanes`."""
    K_SEL: int
    """Of x_proj."""
    K_DT: int
    """Of dt_proj."""
    K_N: int
    """Of A and of the states."""
    K_OUT: int
    """Of out_proj."""

    @property
    def constants(self) -> dict[str, int]:
        """Of the kernels."""
        return {name: value for name, value in self._asdict().items() if name.isupper()}


class PackedStage(NamedTuple):
    """A stage whose blocks all have the same sizes."""

    sizes: TritonSizes
    weights: Float[Tensor, "layers of_a_layer"]
    eps: float
    """Of the RMS norms."""


class PackedLinear(NamedTuple):
    """A linear layer."""

    weight: Float[Tensor, "groups outputs K"]
    bias: Float[Tensor, " outputs"]


class PackedHead(NamedTuple):
    """A layer norm and a linear layer behind it."""

    linear: PackedLinear
    """Outputs that fill up have a bias of -inf."""
    width: int
    """Of what enters."""
    eps: float
    """Of the norm."""


def filled_up(size: int, least: int = 4) -> int:
    """The power of two that a size becomes."""
    return max(least, next_power_of_2(size))


def padded(tensor: Tensor, *shape: int, value: float = 0.0) -> Tensor:
    """`tensor` as the first corner of a larger one."""
    ends = [end for have, want in zip(reversed(tensor.shape), reversed(shape), strict=True)
            for end in (0, want - have)]  # fmt: skip
    return F.pad(tensor, ends, value=value)


def matrix_lanes(inputs: int, outputs: int) -> int:
    """K, inputs of an output that lie side by side, for a matrix of which a program has so much.

    LANES = K outputs: four numbers for each thread, so that no two warps have inputs of the same output.
    """
    return min(inputs, max(4, LANES // outputs))


def pack_matrix(weight: Tensor, outputs: int, inputs: int, K: int) -> Float[Tensor, "groups outputs K"]:
    """A matrix (outputs, inputs), filled up."""
    return padded(weight, outputs, inputs).unflatten(1, (-1, K)).transpose(0, 1).contiguous()


def pack_linear(weight: Tensor, bias: Tensor, outputs: int, inputs: int) -> PackedLinear:
    """A linear layer, filled up."""
    K = matrix_lanes(inputs, outputs_of_a_program(inputs, outputs))
    return PackedLinear(pack_matrix(weight, outputs, inputs, K), padded(bias, outputs))


def pack_head(
    norm: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor, D: int, eps: float
) -> PackedHead:
    """A layer norm and a linear layer behind it, which takes over the weights of the norm."""
    vocab = filled_up(len(bias))
    bias = bias + (weight.double() @ norm_bias.double()).to(bias.dtype)
    matrix = pack_matrix(weight * norm, vocab, D, matrix_lanes(D, vocab))
    return PackedHead(PackedLinear(matrix, padded(bias, vocab, value=-torch.inf)), len(norm), eps)


def pack_stage_triton(blocks: Sequence[Block], eps: float) -> PackedStage:
    """The weights of blocks of one size."""
    first = blocks[0]
    (d_inner, d_state), rank = first.A.shape, first.dt_proj.shape[1]
    D, inner = filled_up(len(first.norm), 16), filled_up(d_inner, 32)
    RANK, N = filled_up(rank), filled_up(d_state)
    SEL, group = next_power_of_2(RANK + 2 * N), channels_of_a_program(D, inner)
    sizes = TritonSizes(
        layers=len(blocks),
        width=len(first.norm),
        D=D,
        INNER=inner,
        SEL=SEL,
        RANK=RANK,
        N=N,
        WIDTH=first.conv_weight.shape[1],
        K_IN=matrix_lanes(D, group),
        K_SEL=matrix_lanes(group, SEL),
        K_DT=matrix_lanes(RANK, group),
        K_N=matrix_lanes(N, group),
        K_OUT=matrix_lanes(group, D),
    )
    layers = []
    for block in blocks:
        low_rank, B, C = block.x_proj.split([rank, d_state, d_state])
        maps = torch.stack([padded(part, N, d_inner) for part in (B, C)], 1).flatten(0, 1)
        selection = torch.cat([padded(low_rank, RANK, d_inner), maps])
        channels = [*block.conv_weight.T, block.conv_bias, block.dt_bias, block.D]
        parts = [
            *[padded(channel, inner) for channel in channels],
            pack_matrix(block.A * LOG2_E, inner, N, sizes.K_N),
            pack_matrix(block.dt_proj, inner, RANK, sizes.K_DT),
            # The weights of the norm go into those of in_proj, whose inputs they scale.
            *[pack_matrix(part, inner, D, sizes.K_IN) for part in (block.in_proj * block.norm).chunk(2)],
            pack_matrix(selection, SEL, inner, sizes.K_SEL),
            pack_matrix(block.out_proj, D, inner, sizes.K_OUT),
        ]
        layers.append(torch.cat([part.flatten() for part in parts]))
    return PackedStage(sizes, torch.stack(layers), eps)
