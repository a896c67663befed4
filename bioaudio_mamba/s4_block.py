"""The blocks around S4D: the Mamba block with it in place of the selective SSM, and SaShiMi's S4 block."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from bioaudio_kernels import Backend, Ranks, causal_conv1d, causal_conv1d_step
from bioaudio_kernels.recompute import Recompute
from jaxtyping import Float, Inexact, Int
from torch import Tensor, nn

from bioaudio_mamba import initialisation
from bioaudio_mamba.block import BlockState
from bioaudio_mamba.block_config import BlockConfig
from bioaudio_mamba.layers import DepthwiseConv, Linear
from bioaudio_mamba.one_sequence import check_one_sequence
from bioaudio_mamba.s4d import S4D


class MambaS4Block(nn.Module):
    """in_proj -> (x, z); x -> causal convolution -> SiLU -> S4D; times SiLU(z) -> out_proj.

    "Mamba-S4" of the Mamba paper's ablations (arXiv 2312.00752, appendix E.4).
    """

    def __init__(
        self,
        d_model: int,
        n_layer: int,
        config: BlockConfig,
        backend: Backend = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        d_inner = config.expand * d_model
        self.n_layer = n_layer
        self.backend: Backend = backend
        self.in_proj = Linear(d_model, 2 * d_inner, bias=False)
        self.conv1d = DepthwiseConv(d_inner, config.d_conv)
        self.s4d = S4D(d_inner, config, backend, generator)
        self.out_proj = Linear(d_inner, d_model, bias=False)
        self._reset_projections(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weights anew."""
        self.s4d.reset_parameters(generator)
        self._reset_projections(generator)

    def _reset_projections(self, generator: torch.Generator | None) -> None:
        initialisation.linear_(self.in_proj.weight, generator)
        initialisation.linear_(self.conv1d.weight, generator)
        initialisation.bias_(self.conv1d.bias, self.conv1d.weight.shape[-1], generator)
        initialisation.linear_(self.out_proj.weight, generator, scale=self.n_layer**-0.5)

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> BlockState:
        """The state before the first step, all zeros, on `device` (None: where the weights are)."""
        weight = self.conv1d.weight
        conv = torch.zeros(
            batch_size,
            weight.shape[-1] - 1,
            weight.shape[0],
            dtype=weight.dtype,
            device=weight.device if device is None else device,
        )
        return BlockState(conv, self.s4d.initial_state(batch_size, device))

    def forward(
        self,
        hidden: Float[Tensor, "batch length d_model"],
        state: BlockState | None = None,
        *,
        cu_seqlens: Int[Tensor, " borders"] | None = None,
        context: Ranks | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], BlockState]:
        """Map a sequence that follows on from `state` (None: the start), and return the state after it.

        Raises:
            ValueError: `cu_seqlens` or `context` is given.
        """
        check_one_sequence("a mamba-s4 block", cu_seqlens, context)
        x, z = self.in_proj(hidden).chunk(2, dim=-1)
        conv_state, ssm_state = (None, None) if state is None else (state.conv.to(x.dtype), state.ssm)
        weight, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias

        def convolve() -> tuple[Tensor, Tensor]:
            return causal_conv1d(x, weight, bias, conv_state, activation="silu", backend=self.backend)

        with (recompute := Recompute()):
            u, conv_state_after = convolve()
            recompute.make_again(u, lambda: convolve()[0])
            y, ssm_state = self.s4d(u, ssm_state)
            gate = recompute.make_again(F.silu(z), lambda: F.silu(z))
            gated = recompute.make_again(y * gate, lambda: y * F.silu(z))
            out = self.out_proj(gated)
        return out, BlockState(conv_state_after, ssm_state)

    def step(
        self, hidden: Float[Tensor, "batch d_model"], state: BlockState
    ) -> tuple[Float[Tensor, "batch d_model"], BlockState]:
        """`forward` over a single time step."""
        x, z = self.in_proj(hidden).chunk(2, dim=-1)
        weight, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        x, conv_state = causal_conv1d_step(
            x, weight, bias, state.conv.to(x.dtype), activation="silu", backend=self.backend
        )
        y, ssm_state = self.s4d.step(x, state.ssm)
        return self.out_proj(y * F.silu(z)), BlockState(conv_state, ssm_state)


class S4State(NamedTuple):
    """All that an S4 block remembers of the past."""

    ssm: Inexact[Tensor, "batch d_model d_state"]


class S4Block(nn.Module):
    """S4D -> GELU -> linear to twice the width -> GLU (SaShiMi, arXiv 2202.09729); or linear alone."""

    def __init__(
        self,
        d_model: int,
        config: BlockConfig,
        backend: Backend = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.glu = config.glu
        self.s4d = S4D(d_model, config, backend, generator)
        self.out_proj = Linear(d_model, (1 + config.glu) * d_model)
        self._reset_projection(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weights anew."""
        self.s4d.reset_parameters(generator)
        self._reset_projection(generator)

    def _reset_projection(self, generator: torch.Generator | None) -> None:
        initialisation.linear_(self.out_proj.weight, generator)
        initialisation.bias_(self.out_proj.bias, self.out_proj.in_features, generator)

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> S4State:
        """The state before the first step, all zeros, on `device` (None: where the weights are)."""
        return S4State(self.s4d.initial_state(batch_size, device))

    def forward(
        self,
        hidden: Float[Tensor, "batch length d_model"],
        state: S4State | None = None,
        *,
        cu_seqlens: Int[Tensor, " borders"] | None = None,
        context: Ranks | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], S4State]:
        """Map a sequence that follows on from `state` (None: the start), and return the state after it.

        Raises:
            ValueError: `cu_seqlens` or `context` is given.
        """
        check_one_sequence("an s4 block", cu_seqlens, context)
        y, ssm = self.s4d(hidden, None if state is None else state.ssm)
        return self._mix(y), S4State(ssm)

    def step(
        self, hidden: Float[Tensor, "batch d_model"], state: S4State
    ) -> tuple[Float[Tensor, "batch d_model"], S4State]:
        """`forward` over a single time step."""
        y, ssm = self.s4d.step(hidden, state.ssm)
        return self._mix(y), S4State(ssm)

    def _mix(self, y: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        mixed = self.out_proj(F.gelu(y))
        return F.glu(mixed) if self.glu else mixed
