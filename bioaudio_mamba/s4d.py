"""S4D, a diagonal state space model that does not change with time (arXiv 2206.11893).

    h'(t) = A h(t) + B x(t),   y(t) = C h(t) + D x(t)      made discrete with a time step dt per channel

A = -exp(A_log) + i A_imag. Complex parameters are stored as pairs of real numbers in a last axis, which
optimisers, averages and files of weights all know how to treat.
"""

from __future__ import annotations

import math

import torch
from bioaudio_kernels import Backend, discretize_bilinear, discretize_zoh, lti_scan, lti_step
from bioaudio_kernels.lti_scan import Method
from jaxtyping import Float, Inexact
from torch import Tensor, nn

from bioaudio_mamba import initialisation
from bioaudio_mamba.block_config import BlockConfig
from bioaudio_mamba.precision import at_least_float32


class S4D(nn.Module):
    """Maps each channel by a system of its own; the state is that of `lti_scan`.

    Args:
        d_inner: channels.
        config: kind and size of the system.
        backend: the kernels that run it.
        generator: draws the weights; None uses torch's global generator.
    """

    A_imag: nn.Parameter | None

    def __init__(
        self,
        d_inner: int,
        config: BlockConfig,
        backend: Backend = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.backend: Backend = backend
        self.method: Method = "auto"
        systems, states = 1 if config.tied else d_inner, config.states
        pair = (2,) if config.is_complex else ()
        self.A_log = nn.Parameter(torch.empty(systems, states))
        self.register_parameter(
            "A_imag", nn.Parameter(torch.empty(systems, states)) if config.is_complex else None
        )
        self.B = nn.Parameter(torch.empty(systems, states, *pair))
        self.C = nn.Parameter(torch.empty(d_inner, states, *pair))
        self.D = nn.Parameter(torch.empty(d_inner))
        self.log_dt = nn.Parameter(torch.empty(d_inner))
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw C, D and dt anew; A starts from its spectrum and B from one."""
        config = self.config
        initialisation.A_(self.A_log, self.A_imag, config.spectrum)
        nn.init.ones_(self.B)
        if config.is_complex:
            self.B[..., 1] = 0
        # A complex number of variance 1, or a real one.
        nn.init.normal_(self.C, std=0.5**0.5 if config.is_complex else 1.0, generator=generator)
        nn.init.normal_(self.D, generator=generator)
        nn.init.uniform_(self.log_dt, math.log(config.dt_min), math.log(config.dt_max), generator=generator)

    def initial_state(
        self, batch_size: int, device: torch.device | str | None = None
    ) -> Inexact[Tensor, "batch d_inner d_state"]:
        """Zeros, on `device` (None: where the weights are)."""
        device = self.C.device if device is None else device
        dtype = at_least_float32(self.C[:0]).dtype
        dtype = dtype.to_complex() if self.config.is_complex or self.config.rule == "bilinear" else dtype
        return torch.zeros(batch_size, *self.C.shape[:2], dtype=dtype, device=device)

    def forward(
        self,
        x: Float[Tensor, "batch length d_inner"],
        state: Inexact[Tensor, "batch d_inner d_state"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_inner"], Inexact[Tensor, "batch d_inner d_state"]]:
        """Map a sequence that follows on from `state`, and return the state after it."""
        return lti_scan(x, *self.system(), state, method=self.method, backend=self.backend)

    def step(
        self, x: Float[Tensor, "batch d_inner"], state: Inexact[Tensor, "batch d_inner d_state"]
    ) -> tuple[Float[Tensor, "batch d_inner"], Inexact[Tensor, "batch d_inner d_state"]]:
        """`forward` over a single time step."""
        return lti_step(x, *self.system(), state)

    def system(
        self,
    ) -> tuple[
        Inexact[Tensor, "d_inner d_state"],
        Inexact[Tensor, "d_inner d_state"],
        Inexact[Tensor, "d_inner d_state"],
        Float[Tensor, " d_inner"],
    ]:
        """log_decay, B, C and D of the discrete system, never in half precision."""
        A_log, B, C, D, log_dt = map(at_least_float32, (self.A_log, self.B, self.C, self.D, self.log_dt))
        A = -torch.exp(A_log)
        if self.A_imag is not None:
            A = torch.complex(A, at_least_float32(self.A_imag))
            B, C = torch.view_as_complex(B), torch.view_as_complex(C)
        elif self.config.rule == "bilinear":
            # A real decay turns negative beyond dt |A| = 2. A complex system has no such limit, but counts
            # its output twice.
            A, C = torch.complex(A, torch.zeros_like(A)), torch.complex(C / 2, torch.zeros_like(C))
        shape = C.shape
        system = A.expand(shape), B.expand(shape), torch.exp(log_dt)
        if self.config.rule == "bilinear":
            return *discretize_bilinear(*system), C, D
        return *discretize_zoh(*system, backend=self.backend), C, D
