"""Random scan and convolution problems, and an oracle for the scan that shares no code with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from hypothesis import strategies as st
from torch import Tensor

SCAN_NAMES = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state")
CONV_NAMES = ("x", "weight", "bias", "initial_state")
Form = Literal["varying", "grouped", "constant"]


@dataclass(frozen=True, kw_only=True)
class ScanCase:
    """Sizes of a scan, the form of each argument, and a seed for its values."""

    batch: int
    length: int
    d_inner: int
    d_state: int
    absent: frozenset[str] = frozenset()
    dt_softplus: bool = True
    dt: Form = "varying"
    B: Form = "varying"
    C: Form = "varying"
    n_groups: int = 1
    """Groups of a B or C that is "grouped"; divides d_inner."""
    complex: frozenset[str] = frozenset()
    """Which of A, B, C are complex; B and C only beside A."""
    cuts: tuple[int, ...] | None = None
    """Where the packed sequences of a single row meet, ascending; None: not packed."""
    reverse: bool = False
    seed: int = 0

    def tensors(self) -> list[Any]:
        """Float64 arguments of `selective_scan`, in order, requiring gradients; None where absent."""
        rng = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=rng, dtype=torch.float64)

        def values(name: str, *shape: int) -> Tensor:
            return torch.complex(normal(*shape), normal(*shape)) if name in self.complex else normal(*shape)

        b, length, d, n = self.batch, self.length, self.d_inner, self.d_state
        maps = {"varying": (b, length, n), "grouped": (b, length, self.n_groups, n), "constant": (d, n)}
        dt, dt_bias = normal(*((d,) if self.dt == "constant" else (b, length, d))), normal(d)
        if not self.dt_softplus:
            dt, dt_bias = dt.abs() / 2, dt_bias.abs() / 4
        A = -4 * torch.rand(d, n, generator=rng, dtype=torch.float64)
        every = {
            "x": normal(b, length, d),
            "dt": dt - 2 if self.dt_softplus else dt,
            "A": torch.complex(A, 5 * normal(d, n)) if "A" in self.complex else A,
            "B": values("B", *maps[self.B]),
            "C": values("C", *maps[self.C]),
            "D": normal(d),
            "z": normal(b, length, d),
            "dt_bias": dt_bias,
            "initial_state": values("A", b if self.cuts is None else len(self.cuts) + 1, d, n),
        }
        return [None if name in self.absent else every[name].requires_grad_() for name in SCAN_NAMES]

    def options(self) -> dict[str, Any]:
        """The keyword arguments of `selective_scan`, save its backend."""
        borders = None if self.cuts is None else torch.tensor([0, *self.cuts, self.length])
        return {"dt_softplus": self.dt_softplus, "cu_seqlens": borders, "reverse": self.reverse}

    def present(self) -> list[str]:
        """Names of the arguments that are there."""
        return [name for name in SCAN_NAMES if name not in self.absent]


@st.composite
def scan_cases(
    draw: st.DrawFn, max_length: int = 70, max_d_inner: int = 70, max_d_state: int = 18, **fixed: Any
) -> ScanCase:
    """Cases around the borders that matter: length 1, one channel, unfilled lanes and tiles, empty packed
    sequences, every form of every argument.

    `fixed` sets fields of the case, so that a test can stay with some forms and draw the rest.
    """
    length = draw(st.integers(1, max_length))
    d_inner = draw(st.integers(1, max_d_inner))
    divisors = [n for n in range(1, d_inner + 1) if d_inner % n == 0]
    complex_names = st.frozensets(st.sampled_from("BC")).map(lambda names: names | {"A"})
    cuts = st.lists(st.integers(0, length), max_size=4).map(lambda cuts: tuple(sorted(cuts)))
    drawn = {
        "absent": st.frozensets(st.sampled_from(("D", "z", "dt_bias", "initial_state"))),
        "dt_softplus": st.booleans(),
        "dt": st.sampled_from(("varying", "constant")),
        "B": st.sampled_from(get_args(Form)),
        "C": st.sampled_from(get_args(Form)),
        "n_groups": st.sampled_from(divisors),
        "complex": st.one_of(st.just(frozenset()), complex_names),
        "cuts": st.none() | cuts,
        "reverse": st.booleans(),
        "seed": st.integers(0, 2**31),
    }
    fields = {name: fixed[name] if name in fixed else draw(drawn[name]) for name in drawn}
    batch = 1 if fields["cuts"] is not None else draw(st.integers(1, 3))
    d_state = draw(st.integers(1, max_d_state))
    return ScanCase(batch=batch, length=length, d_inner=d_inner, d_state=d_state, **fields)


PLAIN: dict[str, Any] = {
    "dt": "varying",
    "B": "varying",
    "C": "varying",
    "n_groups": 1,
    "complex": frozenset(),
    "cuts": None,
    "reverse": False,
}
"""The fields of a scan as Mamba has it, for `scan_cases(**PLAIN)`, or one change from it."""


def cast(tensors: Sequence[Any], dtype: torch.dtype) -> list[Any]:
    """Copies in another dtype (complex ones in complex64 or complex128) that require their own gradients."""
    complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
    return [
        None if t is None else t.detach().to(complex_dtype if t.is_complex() else dtype).requires_grad_()
        for t in tensors
    ]


def gradients(outputs: Sequence[Tensor], arguments: Sequence[Any], weights: Sequence[Tensor]) -> list[Tensor]:
    """Gradients, by the present arguments, of sum(output * weight) over all outputs."""
    present = [tensor for tensor in arguments if tensor is not None]
    weights = [weight.to(output) for weight, output in zip(weights, outputs, strict=True)]
    return list(torch.autograd.grad(outputs, present, weights))


def random_like(outputs: Sequence[Tensor], seed: int = 1) -> list[Tensor]:
    """Gradients to send back through `outputs`, float64 or complex128."""
    rng = torch.Generator().manual_seed(seed)
    return [
        torch.randn(
            output.shape, generator=rng, dtype=torch.complex128 if output.is_complex() else torch.float64
        )
        for output in outputs
    ]


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
    cu_seqlens: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """The scan without a recurrence: sums over all s <= t, with decays exp(A (S_t - S_s))."""
    delta = dt if dt_bias is None else dt + dt_bias
    delta = (torch.log1p(delta.exp()) if dt_softplus else delta).expand_as(x)
    borders = [0, x.shape[1]] if cu_seqlens is None else cu_seqlens.tolist()
    input_map, output_map = (map_of_every_step_and_channel(map, x) for map in (B, C))
    ys, states = [], []
    for i, (start, stop) in enumerate(pairwise(borders)):
        state = initial_state if cu_seqlens is None or initial_state is None else initial_state[i : i + 1]
        moving = [tensor[:, start:stop] for tensor in (x, delta, input_map, output_map)]
        moving = [tensor.flip(1) for tensor in moving] if reverse else moving
        y, h = _unrolled_sequence(*moving, A, state)
        ys.append(y.flip(1) if reverse else y)
        states.append(h)
    y = torch.cat(ys, 1)
    y = y if D is None else y + D * x
    return y if z is None else y * z * torch.sigmoid(z), torch.cat(states)


def map_of_every_step_and_channel(map: Tensor, x: Tensor) -> Tensor:
    """B or C in any form as (batch, length, d_inner, d_state)."""
    batch, length, d_inner = x.shape
    if map.ndim == 3:
        map = map[:, :, None]
    elif map.ndim == 4:
        group = torch.arange(d_inner) // (d_inner // map.shape[2])
        map = map[:, :, group]
    return map.expand(batch, length, d_inner, map.shape[-1])


def _unrolled_sequence(
    x: Tensor, delta: Tensor, B: Tensor, C: Tensor, A: Tensor, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """C . h of every step, and the last h; an empty sequence gives back its state."""
    batch, length, d_inner = x.shape
    if initial_state is None:
        initial_state = torch.zeros(batch, d_inner, A.shape[1], dtype=A.dtype)
    if length == 0:
        return x, initial_state
    elapsed = delta.cumsum(1)
    span = (elapsed[:, :, None] - elapsed[:, None]).clamp(min=0)  # (batch, t, s, d_inner)
    causal = torch.ones(length, length, dtype=torch.bool).tril()[None, :, :, None, None]
    decay = torch.where(causal, torch.exp(span[..., None] * A), 0)
    h = torch.einsum("btsdn,bsd,bsdn->btdn", decay, (delta * x).to(A.dtype), B.to(A.dtype))
    h = h + torch.exp(elapsed[..., None] * A) * initial_state[:, None]
    y = (h * C).sum(-1)
    return 2 * y.real if y.is_complex() else y, h[:, -1]
