"""From a continuous diagonal system h' = A h + B x to the steps of `lti_scan`."""

from __future__ import annotations

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from bioaudio_kernels.shapes import check_shapes


def discretize_zoh(
    A: Inexact[Tensor, "d_inner d_state"],
    B: Inexact[Tensor, "d_inner d_state"],
    dt: Float[Tensor, " d_inner"] | Float[Tensor, "d_inner d_state"],
) -> tuple[Inexact[Tensor, "d_inner d_state"], Inexact[Tensor, "d_inner d_state"]]:
    """Zero-order hold: x is constant during a step (S4D, arXiv 2206.11893, section 3.2).

        log_decay = dt A,    B_bar = (exp(dt A) - 1) / A * B

    At A = 0 it is the limit dt * B, and close to 0 nothing cancels. Differentiable.

    Args:
        A: diagonal of the state matrix, real or complex.
        B: input map, real or complex; complex only if A is.
        dt: step size, one per channel or one per state.

    Returns:
        log_decay and B_bar, as `lti_scan` takes them.

    Raises:
        ValueError: if shapes do not fit each other.
    """
    dt = _step_per_state("discretize_zoh", A, B, dt)
    log_decay = dt * A
    at_zero = log_decay == 0
    # Divided where it is not 0/0, so that no gradient is NaN either; exp(z) - 1 = z + z^2 / 2 + ...
    safe = torch.where(at_zero, 1, log_decay)
    ratio = torch.where(at_zero, 1 + log_decay / 2, torch.expm1(safe) / safe)
    return log_decay, dt * ratio * B


def discretize_bilinear(
    A: Inexact[Tensor, "d_inner d_state"],
    B: Inexact[Tensor, "d_inner d_state"],
    dt: Float[Tensor, " d_inner"] | Float[Tensor, "d_inner d_state"],
) -> tuple[Inexact[Tensor, "d_inner d_state"], Inexact[Tensor, "d_inner d_state"]]:
    """Bilinear transform, or trapezoidal rule (S4, arXiv 2111.00396, section 2.3).

        log_decay = log((1 + dt A / 2) / (1 - dt A / 2)),    B_bar = dt B / (1 - dt A / 2)

    A real A needs dt |A| < 2: beyond, the decay is negative, its logarithm is not real, and NaN is returned.
    The same A as a complex tensor has no such limit. Arguments and errors are those of `discretize_zoh`.
    """
    dt = _step_per_state("discretize_bilinear", A, B, dt)
    half = dt * A / 2
    return torch.log1p(half) - torch.log1p(-half), dt * B / (1 - half)


def _step_per_state(op: str, A: Tensor, B: Tensor, dt: Tensor) -> Tensor:
    """dt with an axis for the states, after a check of all shapes."""
    axes = "d_inner d_state"
    check_shapes(op, {"A": axes, "B": axes, "dt": "d_inner" if dt.ndim == 1 else axes}, (A, B, dt))
    return dt.unsqueeze(-1) if dt.ndim == 1 else dt
