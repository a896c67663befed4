"""Random time-invariant systems, as S4D makes them and worse, and their results with all gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

NAMES = ("x", "log_decay", "B", "C", "D", "initial_state")


@dataclass(frozen=True, kw_only=True)
class LtiCase:
    """Sizes of a scan, which optional arguments it has, what its decays look like, and a seed."""

    batch: int
    length: int
    d_inner: int
    d_state: int
    complex_decay: bool = True
    real_maps: bool = False
    absent: frozenset[str] = frozenset()
    spectrum: str = "random"
    seed: int = 0

    def tensors(self, x_dtype: torch.dtype = torch.float64) -> list[Any]:
        """Float64 arguments of `lti_scan`, in order, requiring gradients; x representable in `x_dtype`.

        The others are representable in float32, so that the reference and a fast method get one system.
        """
        rng = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int, like: torch.dtype = torch.float64) -> Tensor:
            single = torch.complex64 if like.is_complex else torch.float32
            return torch.randn(shape, generator=rng, dtype=single).to(like)

        d, n = self.d_inner, self.d_state
        log_decay = self._log_decay(rng)
        maps = torch.float64 if self.real_maps else log_decay.dtype
        every = {
            "x": normal(self.batch, self.length, d).to(x_dtype).double(),
            "log_decay": log_decay,
            "B": normal(d, n, like=maps),
            "C": normal(d, n, like=maps),
            "D": normal(d),
            "initial_state": normal(self.batch, d, n, like=log_decay.dtype),
        }
        return [None if name in self.absent else every[name].requires_grad_() for name in NAMES]

    def _log_decay(self, rng: torch.Generator) -> Tensor:
        """dt A for A as S4D starts with it, or random decays from none to all within a step."""
        shape = (self.d_inner, self.d_state)
        n = torch.arange(self.d_state)
        inverse = 2 * len(n) / math.pi * (2 * len(n) / (2 * n + 1) - 1)
        real, imaginary = {
            "random": (-2 * torch.rand(shape, generator=rng) ** 3, 4 * torch.randn(shape, generator=rng)),
            "lin": (-0.5 * torch.ones(shape), math.pi * n.expand(shape)),
            "inv": (-0.5 * torch.ones(shape), inverse.expand(shape)),
            "real": (-(n + 1.0).expand(shape), None),
        }[self.spectrum]  # fmt: skip
        dt = torch.ones(shape)
        if self.spectrum != "random":
            dt = torch.logspace(-3, -1, self.d_inner).unsqueeze(1)
        if not self.complex_decay or imaginary is None:
            return (dt * real).double()
        return torch.complex(dt * real, dt * imaginary).to(torch.complex128)


def lti_cases(max_length: int = 150, max_d_inner: int = 5) -> st.SearchStrategy[LtiCase]:
    """Cases around the borders that matter: one step, one channel, one state, every option."""
    return st.builds(
        LtiCase,
        batch=st.integers(1, 3),
        length=st.integers(1, max_length),
        d_inner=st.integers(1, max_d_inner),
        d_state=st.integers(1, 18),
        complex_decay=st.booleans(),
        real_maps=st.booleans(),
        absent=st.frozensets(st.sampled_from(("D", "initial_state"))),
        seed=st.integers(0, 2**31),
    )


def cast(tensors: Sequence[Any], x_dtype: torch.dtype) -> list[Any]:
    """Copies that require gradients: x in `x_dtype`, the rest float32 or complex64 (double if x is)."""
    if x_dtype == torch.float64:
        return [t if t is None else t.detach().clone().requires_grad_() for t in tensors]
    single = {torch.float64: torch.float32, torch.complex128: torch.complex64}
    dtypes = [x_dtype, *(None if t is None else single[t.dtype] for t in tensors[1:])]
    pairs = zip(tensors, dtypes, strict=True)
    return [t if t is None else t.detach().to(dtype).requires_grad_() for t, dtype in pairs]


def results_and_gradients(
    function: Callable[..., tuple[Tensor, Tensor]], arguments: Sequence[Any], **options: Any
) -> dict[str, Tensor]:
    """y, the final state and the gradient of every argument, from fixed random gradients of both."""
    y, final_state = function(*arguments, **options)
    rng = torch.Generator().manual_seed(1)
    # In eight bits, so that it is the same gradient in every precision.
    dy = torch.randn(y.shape, generator=rng).bfloat16().to(y)
    single = torch.complex64 if final_state.is_complex() else torch.float32
    d_state = torch.randn(final_state.shape, generator=rng, dtype=single).to(final_state)
    present = {name: t for name, t in zip(NAMES, arguments, strict=True) if t is not None}
    gradients = torch.autograd.grad([y, final_state], list(present.values()), [dy, d_state])
    return {"y": y, "final state": final_state} | {
        f"d_{name}": gradient for name, gradient in zip(present, gradients, strict=True)
    }
