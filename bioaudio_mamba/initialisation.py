"""How each weight starts, as in the paper (arXiv 2312.00752, section 3.6 and appendix E) and mamba_ssm.

Every function fills a tensor in place, outside autograd, from an explicit generator (of the tensor's device)
or, without one, from torch's global generator.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from bioaudio_mamba.block_config import Spectrum


def linear_(
    weight: Float[Tensor, "d_out ..."], generator: torch.Generator | None = None, *, scale: float = 1.0
) -> None:
    """Uniform within scale / sqrt(fan_in): at scale 1, torch's own start of linear layers and convolutions.

    A block's out_proj takes scale = 1/sqrt(n_layer): the residual stream sums n_layer of them, and so starts
    with the same variance at any depth (Radford et al. 2019, section 2.3).
    """
    bound = scale * math.prod(weight.shape[1:]) ** -0.5
    nn.init.uniform_(weight, -bound, bound, generator=generator)


def bias_(bias: Float[Tensor, " d_out"], fan_in: int, generator: torch.Generator | None = None) -> None:
    """Uniform within 1 / sqrt(fan_in), torch's own start of a linear layer's bias."""
    nn.init.uniform_(bias, -(fan_in**-0.5), fan_in**-0.5, generator=generator)


def embedding_(
    weight: Float[Tensor, "vocab d_model"], generator: torch.Generator | None = None, *, std: float = 0.02
) -> None:
    """Normal with a standard deviation of `std`."""
    nn.init.normal_(weight, std=std, generator=generator)


@torch.no_grad()
def A_(
    A_log: Float[Tensor, "d_inner d_state"], A_imag: Float[Tensor, "d_inner d_state"] | None, init: Spectrum
) -> None:
    """Such that A = -exp(A_log) + i A_imag is the `spectrum` in every channel, -1 .. -d_state if real."""
    log_rate, frequency = spectrum(init, A_log.shape[1])
    A_log.copy_(log_rate)
    if A_imag is not None:
        A_imag.copy_(frequency)


def spectrum(init: Spectrum, states: int) -> tuple[Float64[Tensor, " states"], Float64[Tensor, " states"]]:
    """log(-Re A) and Im A of S4D (arXiv 2206.11893, section 4.1); complex states come without conjugates."""
    n = torch.arange(states, dtype=torch.float64, device="cpu")
    if init == "real":
        return torch.log((n + 1).float()).double(), torch.zeros_like(n)  # to the bit as in mamba_ssm
    match init:
        case "lin":
            imaginary = math.pi * n
        case "inv":
            order = 2 * states
            imaginary = order / math.pi * (order / (2 * n + 1) - 1)
        case "legs":
            # HiPPO-LegS plus a term of rank one is -1/2 + S with S skew-symmetric: i S is Hermitian.
            root = torch.sqrt(2 * torch.arange(2 * states, dtype=torch.float64, device="cpu") + 1)
            lower = torch.tril(root.unsqueeze(1) * root / 2, -1)
            imaginary = torch.linalg.eigvalsh(1j * (lower.mT - lower))[states:]
    return torch.full_like(n, math.log(0.5)), imaginary


@torch.no_grad()
def dt_bias_(
    bias: Float[Tensor, " d_inner"],
    generator: torch.Generator | None = None,
    *,
    dt_min: float = 1e-3,
    dt_max: float = 1e-1,
    floor: float = 1e-4,
) -> None:
    """Such that softplus(bias) is drawn from LogUniform(dt_min, dt_max), but no less than `floor`."""
    nn.init.uniform_(bias, math.log(dt_min), math.log(dt_max), generator=generator)
    dt = bias.exp().clamp_(min=floor)
    bias.copy_(dt + torch.log(-torch.expm1(-dt)))
