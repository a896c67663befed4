"""The size of the Mamba block that a benchmark runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes, device and dtype of a benchmark's tensors."""

    batch: int
    length: int
    d_model: int
    d_state: int
    device: str
    dtype: torch.dtype

    def __post_init__(self) -> None:
        for name in ("batch", "length", "d_model", "d_state"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}, it must be at least 1")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: torch sees no CUDA GPU; use --device cpu")

    @property
    def d_inner(self) -> int:
        """Channels inside the block: twice d_model."""
        return 2 * self.d_model

    def normal(self, *size: int, seed: int) -> Tensor:
        """Standard normal values that require gradients."""
        rng = torch.Generator().manual_seed(seed)
        values = torch.randn(size, generator=rng).to(self.device, self.dtype)
        return values.requires_grad_()

    def __str__(self) -> str:
        sizes = (f"{name} {getattr(self, name)}" for name in ("batch", "length", "d_model", "d_state"))
        return ", ".join([*sizes, str(self.dtype).removeprefix("torch.")])
