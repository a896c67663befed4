"""Random scan and convolution problems, and an oracle for the scan that shares no code with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

SCAN_NAMES = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state")
CONV_NAMES = ("x", "weight", "bias", "initial_state")


@dataclass(frozen=True, kw_only=True)
class ScanCase:
    """Sizes of a scan, which optional arguments it has, and a seed for its values."""

    batch: int
    length: int
    d_inner: int
    d_state: int
    absent: frozenset[str] = frozenset()
    dt_softplus: bool = True
    seed: int = 0

    def tensors(self) -> list[Any]:
        """Float64 arguments of `selective_scan`, in order, requiring gradients; None where absent."""
        rng = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=rng, dtype=torch.float64)

        b, length, d, n = self.batch, self.length, self.d_inner, self.d_state
        dt, dt_bias = normal(b, length, d), normal(d)
        if not self.dt_softplus:
            dt, dt_bias = dt.abs() / 2, dt_bias.abs() / 4
        every = {
            "x": normal(b, length, d),
            "dt": dt - 2 if self.dt_softplus else dt,
            "A": -4 * torch.rand(d, n, generator=rng, dtype=torch.float64),
            "B": normal(b, length, n),
            "C": normal(b, length, n),
            "D": normal(d),
            "z": normal(b, length, d),
            "dt_bias": dt_bias,
            "initial_state": normal(b, d, n),
        }
        return [None if name in self.absent else every[name].requires_grad_() for name in SCAN_NAMES]


def scan_cases(max_length: int = 70, max_d_inner: int = 70) -> st.SearchStrategy[ScanCase]:
    """Cases around the borders that matter: length 1, one channel, unfilled lanes and tiles, every option."""
    return st.builds(
        ScanCase,
        batch=st.integers(1, 3),
        length=st.integers(1, max_length),
        d_inner=st.integers(1, max_d_inner),
        d_state=st.integers(1, 18),
        absent=st.frozensets(st.sampled_from(("D", "z", "dt_bias", "initial_state"))),
        dt_softplus=st.booleans(),
        seed=st.integers(0, 2**31),
    )


def cast(tensors: Sequence[Any], dtype: torch.dtype) -> list[Any]:
    """Copies in another dtype that require gradients on their own."""
    return [None if t is None else t.detach().to(dtype).requires_grad_() for t in tensors]


def gradients(outputs: Sequence[Tensor], arguments: Sequence[Any], weights: Sequence[Tensor]) -> list[Tensor]:
    """Gradients, by the present arguments, of sum(output * weight) over all outputs."""
    present = [tensor for tensor in arguments if tensor is not None]
    weights = [weight.to(output.dtype) for weight, output in zip(weights, outputs, strict=True)]
    return list(torch.autograd.grad(outputs, present, weights))


def random_like(outputs: Sequence[Tensor], seed: int = 1) -> list[Tensor]:
    """Gradients to send back through `outputs`, float64."""
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(output.shape, generator=rng, dtype=torch.float64) for output in outputs]


def unrolled_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
    *,
    dt_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """The scan without a recurrence: sums over all s <= t, with decays exp(A (S_t - S_s))."""
    delta = dt if dt_bias is None else dt + dt_bias
    delta = torch.log1p(delta.exp()) if dt_softplus else delta
    elapsed = delta.cumsum(1)
    length = x.shape[1]
    span = elapsed[:, :, None] - elapsed[:, None]  # (batch, t, s, d_inner)
    causal = torch.ones(length, length, dtype=torch.bool).tril()[None, :, :, None, None]
    decay = torch.where(causal, torch.exp(torch.einsum("btsd,dn->btsdn", span, A).clamp(max=0)), 0)
    h = torch.einsum("btsdn,bsd,bsn->btdn", decay, delta * x, B)
    if initial_state is not None:
        h = h + torch.exp(torch.einsum("btd,dn->btdn", elapsed, A)) * initial_state[:, None]
    y = torch.einsum("btdn,btn->btd", h, C)
    y = y if D is None else y + D * x
    return y if z is None else y * z * torch.sigmoid(z), h[:, -1]
