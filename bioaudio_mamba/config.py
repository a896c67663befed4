"""The sizes and settings of a Mamba model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bioaudio_kernels import BACKENDS, Backend


@dataclass(frozen=True, kw_only=True)
class MambaConfig:
    """Sizes of a Mamba language model. The defaults are those of the Mamba paper (arXiv 2312.00752).

    Raises:
        ValueError: a size is not a positive integer, or the range of dt is empty.
    """

    d_model: int
    """Width of the residual stream (the paper's D)."""
    n_layer: int
    """Number of Mamba blocks."""
    vocab_size: int = 16
    """Rows of the embedding: the vocabulary, padded (12 characters of DNA are padded to 16)."""
    d_state: int = 16
    """States of each channel (the paper's N)."""
    d_conv: int = 4
    """Width of the causal convolution in front of the scan."""
    expand: int = 2
    """Width of a block's inside, in units of d_model (the paper's E)."""
    dt_rank: int | None = None
    """Rank of the projection that makes dt; None means ceil(d_model / 16), and that is kept as None."""
    dt_min: float = 1e-3
    """Smallest time step at initialisation."""
    dt_max: float = 1e-1
    """Largest time step at initialisation."""
    dt_init_floor: float = 1e-4
    """Time steps drawn at initialisation are never below this."""
    norm_eps: float = 1e-5
    """Added to the mean square inside every RMSNorm."""
    tie_embeddings: bool = True
    """Whether the language-model head shares the weights of the embedding."""
    backend: Backend = "auto"
    """Which kernels run the scan and the convolution; "auto" picks by device and dtype."""

    def __post_init__(self) -> None:
        for name in ("d_model", "n_layer", "vocab_size", "d_state", "d_conv", "expand"):
            check_positive(name, getattr(self, name))
        if self.dt_rank is not None:
            check_positive("dt_rank", self.dt_rank)
            if self.dt_rank == _default_rank(self.d_model):
                # One meaning, one spelling: configurations of the same model are equal.
                object.__setattr__(self, "dt_rank", None)
        if not 0 < self.dt_min <= self.dt_max:
            raise ValueError(
                f"dt_min = {self.dt_min} and dt_max = {self.dt_max}: they must satisfy 0 < dt_min <= dt_max"
            )
        if self.backend not in BACKENDS:
            raise ValueError(f"backend = {self.backend!r} is unknown; use one of {', '.join(BACKENDS)}")
        for name in ("dt_init_floor", "norm_eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    @property
    def d_inner(self) -> int:
        """Channels inside a block: expand * d_model."""
        return self.expand * self.d_model

    @property
    def rank(self) -> int:
        """The rank of the dt projection in force: `dt_rank`, or ceil(d_model / 16) where that is None."""
        return self.dt_rank if self.dt_rank is not None else _default_rank(self.d_model)


def _default_rank(d_model: int) -> int:
    return math.ceil(d_model / 16)


def check_positive(name: str, value: object) -> None:
    """Refuse a size that is not an integer of 1 or more.

    Raises:
        ValueError: naming it.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
