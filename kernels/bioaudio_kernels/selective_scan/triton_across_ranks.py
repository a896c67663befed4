"""The Triton scan over several ranks: the exchange costs no pass, it goes between two kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bioaudio_kernels.ranks import Ranks
from bioaudio_kernels.selective_scan.across_ranks import Tensors, scan_across_ranks, sum_of_dt
from bioaudio_kernels.selective_scan.triton_config import ScanConfig
from bioaudio_kernels.selective_scan.triton_launch import ScanInputs
from bioaudio_kernels.selective_scan.triton_op import as_pairs, default_config, with_equal_groups
from bioaudio_kernels.selective_scan.triton_scan import scan_backward, scan_forward

SEGMENT = 2**30
"""Elements of a shard that the backward pass sweeps once; its buffers take some 7 bytes for each."""


def selective_scan_triton_across_ranks(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
    dt_softplus: bool = True,
    *,
    ranks: Ranks,
    cu_seqlens: Tensor | None,
    config: ScanConfig | None = None,
) -> tuple[Tensor, Tensor]:
    """See `selective_scan`, and `selective_scan_triton` for dtypes and `config`."""
    dt = dt.expand(x.shape)
    B, C = with_equal_groups(B, C)
    parts = 2 if A.is_complex() else 1
    rates = A.to(torch.complex64 if parts == 2 else torch.float32)
    if parts == 2:
        A, B, C = (as_pairs(tensor) for tensor in (A, B, C))
    if config is None:
        config = default_config(x, B, C, parts)
        config = config._replace(segment=max(1, SEGMENT // (x.shape[2] * config.chunk)))
    pieces = TritonPieces(parts, dt_softplus, config, cu_seqlens)
    return scan_across_ranks(pieces, ranks, (x, dt, A, B, C, D, z, dt_bias), rates, initial_state, cu_seqlens)


@dataclass(frozen=True)
class TritonPieces:
    """`Pieces` of `scan_forward` and `scan_backward`; rows of a batch run as packed sequences."""

    parts: int
    dt_softplus: bool
    config: ScanConfig
    cu_seqlens: Tensor | None

    def forward(
        self, tensors: Tensors, start: Tensor, enter: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensors]:
        """See `Pieces`."""
        x = tensors[0]

        def enter_chunks(end: Tensor, sigma: Tensor) -> Tensor:
            return self._as_pairs(
                enter(self._as_numbers(end), self._sum_of_dt(tensors, sigma, start.shape[0]))
            )

        with torch.cuda.device_of(x):
            inputs, cu_seqlens = self._inputs(tensors, start)
            y, final_state, states = scan_forward(inputs, cu_seqlens, self.config, enter_chunks)
        return y.view(x.shape), self._as_numbers(final_state), (states,)

    def backward(
        self, tensors: Tensors, kept: Tensors, dy: Tensor, d_final: Tensor, enter: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor | None, ...]:
        """See `Pieces`."""
        (states,) = kept
        x = tensors[0]

        def enter_shard(own: Tensor) -> Tensor:
            return self._as_pairs(enter(self._as_numbers(own)))

        with torch.cuda.device_of(x):
            inputs, cu_seqlens = self._inputs(tensors, d_final)
            gradients = scan_backward(
                inputs, cu_seqlens, states, _in_one_row(dy), self._as_pairs(d_final), self.config, enter_shard
            )
        *gradients, d_initial = gradients
        shaped = [
            None if tensor is None else gradient.view(tensor.shape)
            for tensor, gradient in zip(tensors, gradients, strict=True)
        ]
        return *shaped, self._as_numbers(d_initial)

    def _sum_of_dt(self, tensors: Tensors, sigma: Tensor, sequences: int) -> Tensor:
        """(sequences, d_inner), from the sums of every chunk but a sequence's last; see `Pieces`."""
        dt = tensors[1]
        if sequences != dt.shape[0]:
            return sigma[:1].expand(sequences, -1)  # several packed ones need none
        full, rest = divmod(dt.shape[1], self.config.chunk)
        sums = sigma[: sequences * (full + 1)].view(sequences, full + 1, -1).sum(1)
        return sums + sum_of_dt(dt[:, dt.shape[1] - rest :], tensors[7], self.dt_softplus, sums.dtype)

    def _inputs(self, tensors: Tensors, start: Tensor) -> tuple[ScanInputs, Tensor]:
        """The tensors with all steps in one row, and the borders between the sequences in it."""
        x, dt, A, B, C, D, z, dt_bias = tensors
        cu_seqlens = self.cu_seqlens
        if cu_seqlens is None:
            batch, length, _ = x.shape
            cu_seqlens = torch.arange(batch + 1, device=x.device) * length
        x, dt, z = _in_one_row(x), _in_one_row(dt), None if z is None else _in_one_row(z)
        B, C = (_in_one_row(map) if map.ndim == 4 else map for map in (B, C))
        start = self._as_pairs(start)
        return ScanInputs(
            x, dt, A, B, C, D, z, dt_bias, start, self.parts, self.dt_softplus, reverse=False
        ), cu_seqlens

    def _as_pairs(self, state: Tensor) -> Tensor:
        return as_pairs(state) if self.parts == 2 else state

    def _as_numbers(self, state: Tensor) -> Tensor:
        return torch.view_as_complex(state.unflatten(-1, (-1, 2)).contiguous()) if self.parts == 2 else state


def _in_one_row(tensor: Tensor) -> Tensor:
    """(1, batch * length, ...)"""
    return tensor.flatten(0, 1).unsqueeze(0)
