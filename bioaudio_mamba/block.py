"""The Mamba block: a gated selective state space model behind a short causal convolution.

Glossary, from the symbols of the paper (arXiv 2312.00752, section 3) to the names here:

    B, L, D        batch, length, d_model
    E              expand; the block works on d_inner = E * D channels
    N              d_state, the states of each channel
    A  (E D, N)    A, the (diagonal) decay rates, negative: A = -exp(A_log)
    B_t, C_t (N)   B, C, linear in the input at t, shared by all channels: how the input enters the state,
                   and how the state is read
    Δ_t  (E D)     dt, the time step: softplus of a projection of rank dt_rank, plus dt_proj.bias
    D  (E D)       D, the skip from a channel's input to its output (not the width!)
    Ā, B̄           exp(dt A) and dt B (equation 4; B by Euler's rule): applied inside the scan
    h_t  (E D, N)  BlockState.ssm
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from bioaudio_kernels import Ranks, causal_conv1d, causal_conv1d_step, selective_scan, selective_scan_step
from bioaudio_kernels.recompute import Recompute
from jaxtyping import Float, Inexact, Int
from torch import Tensor, nn

from bioaudio_mamba import initialisation
from bioaudio_mamba.block_config import Spectrum
from bioaudio_mamba.config import MambaConfig
from bioaudio_mamba.context import exchange_tails
from bioaudio_mamba.layers import DepthwiseConv, Linear
from bioaudio_mamba.precision import at_least_float32


class BlockState(NamedTuple):
    """All that a block remembers of the past: a value, never changed in place."""

    conv: Float[Tensor, "batch d_conv-1 d_inner"]
    """The last d_conv - 1 inputs of the convolution, oldest first."""
    ssm: Inexact[Tensor, "batch d_inner d_state"]
    """h, the state of the SSM, real or complex: in single precision under autocast too."""


class MambaBlock(nn.Module):
    """in_proj -> (x, z); x -> causal convolution -> SiLU -> selective SSM; (times SiLU(z)) -> out_proj.

    Parameter names and shapes are those of mamba_ssm and of transformers' MambaMixer. With complex states, A
    is -exp(A_log) + i A_imag, and x_proj gives the real parts of B before the imaginary ones, and so of C.

    Args:
        config: sizes; d_state counts complex states if `init` is complex, each with its conjugate.
        generator: draws the weights; None uses torch's global generator.
        init: the spectrum of A at the start, and with it whether states are complex; see `BlockConfig`.
    """

    A_imag: nn.Parameter | None

    def __init__(
        self, config: MambaConfig, generator: torch.Generator | None = None, *, init: Spectrum = "real"
    ) -> None:
        super().__init__()
        d_inner, rank, d_state = config.d_inner, config.rank, config.d_state
        self.config = config
        self.init: Spectrum = init
        self.in_proj = Linear(config.d_model, 2 * d_inner, bias=False)
        self.conv1d = DepthwiseConv(d_inner, config.d_conv)
        self.x_proj = Linear(d_inner, rank + (2 if init == "real" else 4) * d_state, bias=False)
        self.dt_proj = Linear(rank, d_inner, bias=True)
        self.A_log = nn.Parameter(torch.empty(d_inner, d_state))
        A_imag = None if init == "real" else nn.Parameter(torch.empty(d_inner, d_state))
        self.register_parameter("A_imag", A_imag)
        self.D = nn.Parameter(torch.empty(d_inner))
        self.out_proj = Linear(d_inner, config.d_model, bias=False)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weights anew, from `generator` (of the weights' device) or else torch's global one."""
        config = self.config
        initialisation.linear_(self.in_proj.weight, generator)
        initialisation.linear_(self.conv1d.weight, generator)
        nn.init.uniform_(self.conv1d.bias, -(config.d_conv**-0.5), config.d_conv**-0.5, generator=generator)
        initialisation.linear_(self.x_proj.weight, generator)
        initialisation.linear_(self.dt_proj.weight, generator)
        initialisation.dt_bias_(
            self.dt_proj.bias,
            generator,
            dt_min=config.dt_min,
            dt_max=config.dt_max,
            floor=config.dt_init_floor,
        )
        initialisation.A_(self.A_log, self.A_imag, self.init)
        nn.init.ones_(self.D)
        initialisation.linear_(self.out_proj.weight, generator, scale=config.n_layer**-0.5)

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> BlockState:
        """The state before the first step, all zeros, on `device` (None: where the weights are)."""
        device = self.A_log.device if device is None else device
        d_inner, d_state = self.A_log.shape
        conv = torch.zeros(
            batch_size, self.config.d_conv - 1, d_inner, dtype=self.conv1d.weight.dtype, device=device
        )
        ssm_dtype = at_least_float32(self.A_log).dtype
        if self.A_imag is not None:
            ssm_dtype = ssm_dtype.to_complex()
        return BlockState(conv, torch.zeros(batch_size, d_inner, d_state, dtype=ssm_dtype, device=device))

    def forward(
        self,
        hidden: Float[Tensor, "batch length d_model"],
        state: BlockState | None = None,
        *,
        cu_seqlens: Int[Tensor, " borders"] | None = None,
        context: Ranks | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], BlockState]:
        """Map a sequence that follows on from `state` (None: the start), and return the state after it.

        Gradients flow through both states. The kernels read x, z, B and C as slices of the projections. What
        is cheap to compute, the convolution and the projection to dt, is made again in the backward pass.
        `cu_seqlens` and `context` are those of `Mamba.forward`.
        """
        backend = self.config.backend
        x, z = self.in_proj(hidden).chunk(2, dim=-1)
        conv_state, ssm_state = (None, None) if state is None else (state.conv.to(x.dtype), state.ssm)
        weight, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        leaving = None
        if context is not None and weight.shape[1] > 1:
            if conv_state is None:
                sequences = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
                conv_state = x.new_zeros(sequences, weight.shape[1] - 1, x.shape[2])
            x, conv_state, leaving = exchange_tails(context, x, conv_state, cu_seqlens)
        A, D, dt_bias = self._ssm_parameters()
        dt_weight = self.dt_proj.weight  # the one of now: in the backward pass the module may have another

        def convolve() -> tuple[Tensor, Tensor]:
            return causal_conv1d(
                x, weight, bias, conv_state, cu_seqlens=cu_seqlens, activation="silu", backend=backend
            )

        with (recompute := Recompute()):
            u, new_conv_state = convolve()
            recompute.make_again(u, lambda: convolve()[0])
            low_rank, B, C = self._selection(u)
            dt = recompute.make_again(F.linear(low_rank, dt_weight), lambda: F.linear(low_rank, dt_weight))
            y, ssm_state = selective_scan(
                u,
                dt,
                A,
                B,
                C,
                D,
                z,
                dt_bias,
                ssm_state,
                cu_seqlens=cu_seqlens,
                backend=backend,
                ranks=context,
            )
        return self.out_proj(y), BlockState(new_conv_state if leaving is None else leaving, ssm_state)

    def step(
        self, hidden: Float[Tensor, "batch d_model"], state: BlockState
    ) -> tuple[Float[Tensor, "batch d_model"], BlockState]:
        """`forward` over a single time step."""
        backend = self.config.backend
        x, z = self.in_proj(hidden).chunk(2, dim=-1)
        weight, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        x, conv_state = causal_conv1d_step(
            x, weight, bias, state.conv.to(x.dtype), activation="silu", backend=backend
        )
        low_rank, B, C = self._selection(x)
        A, D, dt_bias = self._ssm_parameters()
        dt = F.linear(low_rank, self.dt_proj.weight)  # bias and softplus are the scan's
        y, ssm_state = selective_scan_step(x, dt, A, B, C, D, z, dt_bias, state.ssm, backend=backend)
        return self.out_proj(y), BlockState(conv_state, ssm_state)

    def _selection(
        self, x: Float[Tensor, "*batch d_inner"]
    ) -> tuple[
        Float[Tensor, "*batch rank"], Inexact[Tensor, "*batch d_state"], Inexact[Tensor, "*batch d_state"]
    ]:
        """What the input selects: dt before it is projected from its low rank, B and C."""
        rank = self.config.rank
        low_rank, maps = self.x_proj(x).tensor_split([rank], dim=-1)
        B, C = maps.chunk(2, dim=-1)
        if self.A_imag is not None:
            B, C = (torch.complex(*at_least_float32(map).chunk(2, dim=-1)) for map in (B, C))
        return low_rank, B, C

    def _ssm_parameters(
        self,
    ) -> tuple[Inexact[Tensor, "d_inner d_state"], Float[Tensor, " d_inner"], Float[Tensor, " d_inner"]]:
        """A, D and the bias of dt, never in half precision."""
        A = -torch.exp(at_least_float32(self.A_log))
        if self.A_imag is not None:
            A = torch.complex(A, at_least_float32(self.A_imag))
        return A, at_least_float32(self.D), at_least_float32(self.dt_proj.bias)
