"""Which block a stage of a network is made of, and its inner state space model."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from bioaudio_mamba.config import check_positive

Kind = Literal["mamba", "mamba-s4", "s4", "attention"]
Spectrum = Literal["real", "lin", "inv", "legs"]
Rule = Literal["zoh", "bilinear"]

_TIME_INVARIANT: tuple[Kind, ...] = ("mamba-s4", "s4")
_SSM = {"complex", "init", "d_state", "dt_min", "dt_max"}
_FIELDS: dict[str, set[str]] = {
    "mamba": _SSM | {"d_conv", "dt_rank"},
    "mamba-s4": _SSM | {"d_conv", "rule", "tied"},
    "s4": _SSM | {"rule", "tied", "glu"},
    "attention": {"n_head"},
}


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """One block of a network; which fields count depends on `kind`, and any other must stay as it is.

    Raises:
        ValueError: a value is unknown, two exclude each other, or one does not belong to the kind.
    """

    kind: Kind = "mamba"
    """mamba: the Mamba block, whose SSM is selective. mamba-s4: the Mamba block with the time-invariant S4D
    in its place. s4: S4D with GLU, then a feed-forward layer. attention: causal attention, then a
    feed-forward layer."""
    complex: bool | None = None
    """Whether the states are complex; None: those of S4D are, those of a selective SSM are not."""
    init: Spectrum | None = None
    """How A starts. real: -(n + 1). Complex, -1/2 + i times lin: pi n; inv: N/pi (N/(2n+1) - 1); legs: the
    spectrum of HiPPO-LegS. None means real or lin."""
    rule: Rule | None = None
    """How S4D becomes discrete; None means zoh."""
    d_state: int | None = None
    """Real numbers in the state of a channel (N), complex states count twice; None: 16 for mamba, else 64."""
    d_conv: int = 4
    """Width of the causal convolution of both Mamba blocks."""
    expand: int = 2
    """Width of a Mamba block's inside or of the feed-forward layer, in units of the stage's width."""
    dt_rank: int | None = None
    """Rank of the projection that makes the selective SSM's dt; None means ceil(width / 16)."""
    dt_min: float = 1e-3
    """Smallest time step at initialisation."""
    dt_max: float = 1e-1
    """Largest time step at initialisation."""
    tied: bool = False
    """Whether all channels share the A and B of S4D."""
    glu: bool = True
    """Whether the output projection of s4 is gated."""
    n_head: int = 4
    """Heads of attention, each of an even number of channels."""

    def __post_init__(self) -> None:
        _check_known("kind", self.kind, get_args(Kind))
        for field in fields(self):
            given: Any = getattr(self, field.name)
            if field.name not in _FIELDS[self.kind] | {"kind", "expand"} and given != field.default:
                raise ValueError(f"{field.name} = {given!r} means nothing to a block of kind {self.kind!r}")
        for name in ("d_state", "d_conv", "expand", "dt_rank", "n_head"):
            if (size := getattr(self, name)) is not None:
                check_positive(name, size)
        if not 0 < self.dt_min <= self.dt_max:
            raise ValueError(
                f"dt_min = {self.dt_min} and dt_max = {self.dt_max}: they must satisfy 0 < dt_min <= dt_max"
            )
        _check_known("init", self.init or "lin", get_args(Spectrum))
        _check_known("rule", self.rule or "zoh", get_args(Rule))
        if (self.spectrum != "real") != self.is_complex:
            allowed = "lin, inv or legs" if self.is_complex else "real"
            raise ValueError(
                f"init = {self.init!r} with complex = {self.complex}: a block of kind {self.kind!r} with "
                f"{'complex' if self.is_complex else 'real'} states starts from {allowed}"
            )
        if self.is_complex and self.real_size % 2:
            raise ValueError(f"d_state must be even where states are complex, got {self.real_size}")

    @property
    def time_invariant(self) -> bool:
        """Whether the SSM is S4D."""
        return self.kind in _TIME_INVARIANT

    @property
    def is_complex(self) -> bool:
        """`complex`, its default in force."""
        return self.time_invariant if self.complex is None else self.complex

    @property
    def spectrum(self) -> Spectrum:
        """`init`, its default in force."""
        return self.init or ("lin" if self.is_complex else "real")

    @property
    def real_size(self) -> int:
        """`d_state`, its default in force."""
        return self.d_state or (64 if self.time_invariant else 16)

    @property
    def states(self) -> int:
        """States of a channel: complex ones, each of which stands for a conjugate pair, or real ones."""
        return self.real_size // 2 if self.is_complex else self.real_size


def _check_known(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} = {value!r} is unknown; use one of {', '.join(allowed)}")
