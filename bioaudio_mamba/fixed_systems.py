"""A copy of a model for generation, in which what does not change from step to step is worked out once."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from bioaudio_kernels import Backend, lti_scan
from bioaudio_kernels.lti_scan import Method
from jaxtyping import Float, Inexact
from torch import Tensor, nn

from bioaudio_mamba.s4d import S4D

Model = TypeVar("Model", bound=nn.Module)


@torch.no_grad()
def with_fixed_systems(model: Model) -> Model:
    """A copy of `model` whose S4D systems are discrete already, so that a step does not make them so again.

    Same results, states and interface. The copy is not for training, and does not follow the weights of
    `model`; a model without S4D comes back as a plain copy.
    """
    fixed = copy.deepcopy(model).requires_grad_(False)
    for module in list(fixed.modules()):
        for name, child in module.named_children():
            if isinstance(child, S4D):
                setattr(module, name, FixedS4D(child))
    return fixed


class FixedS4D(nn.Module):
    """The discrete system of an `S4D`."""

    decay: Tensor
    log_decay: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    readout: Tensor

    def __init__(self, s4d: S4D) -> None:
        super().__init__()
        self.backend: Backend = s4d.backend
        self.method: Method = s4d.method
        log_decay, B, C, D = s4d.system()
        # The real part of 2 C h, as a product of real numbers.
        readout = torch.view_as_real((2 * C.conj()).resolve_conj()) if C.is_complex() else C.unsqueeze(-1)
        tensors = {"log_decay": log_decay, "B": B, "C": C, "D": D}
        for name, tensor in (tensors | {"decay": log_decay.exp(), "readout": readout}).items():
            self.register_buffer(name, tensor.detach().clone(), persistent=False)

    def initial_state(
        self, batch_size: int, device: torch.device | str | None = None
    ) -> Inexact[Tensor, "batch d_inner d_state"]:
        """See `S4D`."""
        device = self.decay.device if device is None else device
        return torch.zeros(batch_size, *self.decay.shape, dtype=self.decay.dtype, device=device)

    def forward(
        self,
        x: Float[Tensor, "batch length d_inner"],
        state: Inexact[Tensor, "batch d_inner d_state"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_inner"], Inexact[Tensor, "batch d_inner d_state"]]:
        """See `S4D`."""
        system = self.log_decay, self.B, self.C, self.D
        return lti_scan(x, *system, state, method=self.method, backend=self.backend)

    def step(
        self, x: Float[Tensor, "batch d_inner"], state: Inexact[Tensor, "batch d_inner d_state"]
    ) -> tuple[Float[Tensor, "batch d_inner"], Inexact[Tensor, "batch d_inner d_state"]]:
        """See `S4D`."""
        u = x.to(self.D.dtype)
        state = torch.addcmul(self.B * u.unsqueeze(-1), self.decay, state)
        parts = torch.view_as_real(state) if state.is_complex() else state.unsqueeze(-1)
        y = torch.addcmul((parts * self.readout).sum((-2, -1)), self.D, u)
        return y.to(x.dtype), state
