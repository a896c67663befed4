"""Tensors as the compiled scan lays them out, and its results as tensors."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from bioaudio_kernels.blocks import CHANNELS, TILE, block_count
from bioaudio_kernels.lane_math import LOG2_E


def as_values(tensor: Tensor) -> Tensor:
    """(..., n) as float32 (..., values): the numbers themselves, or real and imaginary parts in turn."""
    tensor = tensor.detach()
    if tensor.is_complex():
        return torch.view_as_real(tensor.to(torch.complex64).resolve_conj()).flatten(-2)
    return tensor.to(torch.float32)


def from_values(values: Tensor, like: Tensor) -> Tensor:
    """The inverse of `as_values`: float32, or complex64 where `like` is complex."""
    if like.is_complex():
        return torch.view_as_complex(values.unflatten(-1, (-1, 2)).contiguous())
    return values


def rates_of(A: Tensor) -> Tensor:
    """A (d_inner, d_state) as [value][d_inner]: see `cpu_real_states` and `cpu_complex_states`."""
    if not A.is_complex():
        return (A.detach().to(torch.float32) * float(LOG2_E)).mT
    A = A.detach().to(torch.complex128)
    turns = A.imag / math.pi
    whole = turns.to(torch.float32)
    rates = torch.stack([(A.real * float(LOG2_E)).float(), whole, (turns - whole).float()], -1)
    return rates.flatten(-2).mT


def spans_of(batch: int, length: int, cu_seqlens: Tensor | None, reverse: bool) -> np.ndarray:
    """[sequence][4]: row of the batch, first step, number of steps, first checkpoint."""
    if cu_seqlens is None:
        row = np.arange(batch)
        start, count = np.zeros_like(row), np.full_like(row, length)
        checkpoint = row * -(-length // TILE)
    else:
        borders = cu_seqlens.cpu().numpy().astype(np.int64)
        start, count = borders[:-1], np.diff(borders)
        row = np.zeros_like(start)
        # At least as far apart as tiles are many, whatever the borders: they need not be summed up.
        checkpoint = start // TILE + np.arange(len(start))
    first = start + count - 1 if reverse else start
    return np.stack([row, first, count, checkpoint], 1)


def map_values(map: Tensor, A: Tensor) -> Tensor:
    """B or C as values; complex if A is."""
    return as_values(map.detach().to(torch.complex64) if A.is_complex() else map)


def map_strides(values: Tensor) -> tuple[int, int]:
    """(batch, length) strides of the contiguous values of B or C in any of their forms."""
    if values.ndim == 2:
        return 0, 0
    row = math.prod(values.shape[2:])
    return values.shape[1] * row, row


def channels_a_group(map: Tensor, d_inner: int) -> int:
    """How many neighbouring channels share one row of B or C."""
    if map.ndim == 4:
        return max(1, d_inner // map.shape[2])
    return d_inner if map.ndim == 3 else 1


def zero_map_gradient(map: Tensor, A: Tensor, n_states: int) -> Tensor:
    """Where `backward` adds the gradient of a map: zeros, behind an axis that is to be summed over.

    That is the axis of sequences if the map is constant in time, else of the blocks that a group may touch.
    """
    d_inner, d_state = A.shape
    copies = n_states
    if map.ndim > 2:
        share = channels_a_group(map, d_inner)
        # A group begins at most `offset` channels into a block.
        offset = CHANNELS - math.gcd(share, CHANNELS)
        copies = min(block_count(d_inner), (offset + share - 1) // CHANNELS + 1)
    values = 2 * d_state if A.is_complex() else d_state
    return torch.zeros(copies, *map.shape[:-1], values, dtype=torch.float32)
