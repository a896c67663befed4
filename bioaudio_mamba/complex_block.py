"""The Mamba block with complex states: A, B and C are complex, all else stays real."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from bioaudio_mamba import initialisation
from bioaudio_mamba.block import BlockState, MambaBlock
from bioaudio_mamba.block_config import Spectrum
from bioaudio_mamba.config import MambaConfig
from bioaudio_mamba.layers import Linear
from bioaudio_mamba.precision import at_least_float32


class ComplexMambaBlock(MambaBlock):
    """A selective SSM whose d_state complex states each stand for a conjugate pair.

    x_proj gives dt's low rank, then the real and the imaginary parts of B, then those of C. With half as many
    states it has as many weights as the real block.

    Args:
        config: sizes; its d_state counts complex states.
        init: the spectrum of A at the start.
        generator: draws the weights; None uses torch's global generator.
    """

    def __init__(self, config: MambaConfig, init: Spectrum, generator: torch.Generator | None = None) -> None:
        super().__init__(config, generator)
        self.init: Spectrum = init
        self.A_imag = nn.Parameter(torch.empty_like(self.A_log))
        self.x_proj = Linear(config.d_inner, config.rank + 4 * config.d_state, bias=False)
        self._reset_complex(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weights anew."""
        super().reset_parameters(generator)
        if hasattr(self, "A_imag"):  # not yet while the real block is built
            self._reset_complex(generator)

    @torch.no_grad()
    def _reset_complex(self, generator: torch.Generator | None) -> None:
        initialisation.linear_(self.x_proj.weight, generator)
        A_log, A_imag = initialisation.spectrum(self.init, self.config.d_state)
        self.A_log.copy_(A_log)
        self.A_imag.copy_(A_imag)

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> BlockState:
        """The state before the first step, all zeros, on `device` (None: where the weights are)."""
        conv, ssm = super().initial_state(batch_size, device)
        return BlockState(conv, ssm.to(ssm.dtype.to_complex()))

    def _selection(
        self, x: Float[Tensor, "*batch d_inner"]
    ) -> tuple[
        Float[Tensor, "*batch rank"], Complex[Tensor, "*batch d_state"], Complex[Tensor, "*batch d_state"]
    ]:
        rank, d_state = self.config.rank, self.config.d_state
        low_rank, B, C = self.x_proj(x).split([rank, 2 * d_state, 2 * d_state], dim=-1)
        B, C = (torch.complex(*at_least_float32(map).chunk(2, -1)) for map in (B, C))
        return low_rank, B, C

    def _ssm_parameters(
        self,
    ) -> tuple[Complex[Tensor, "d_inner d_state"], Float[Tensor, " d_inner"], Float[Tensor, " d_inner"]]:
        A, D, dt_bias = super()._ssm_parameters()
        return torch.complex(A, at_least_float32(self.A_imag)), D, dt_bias
