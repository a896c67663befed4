"""The sizes that a benchmark runs at, and random tensors of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FLAGS = {
    "batch": "--batch",
    "length": "--lengths",
    "d_inner": "--d-inner",
    "d_state": "--d-state",
    "n_layer": "--n-layer",
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes, device, dtype and seed of a benchmark's tensors and models."""

    batch: int = 1
    """Sequences at once."""
    length: int = 2048
    """Time steps."""
    d_inner: int = 512
    """Channels of scan and convolution: twice the width of a block."""
    d_state: int = 16
    """States of a channel."""
    n_layer: int = 8
    """Blocks of a language model."""
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    """Of inputs; models keep float32 weights and run under autocast."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, flag in FLAGS.items():
            if getattr(self, name) < 1:
                raise ValueError(f"{flag} is {getattr(self, name)}, it must be at least 1")
        if self.d_inner % 2:
            raise ValueError(f"--d-inner is {self.d_inner}, it must be even: a block is half as wide")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: torch sees no CUDA GPU; use --device cpu")

    @property
    def d_model(self) -> int:
        """Width of a block."""
        return self.d_inner // 2

    def generator(self, key: int, device: str | None = None) -> torch.Generator:
        """Random numbers of this benchmark: the same for the same seed and key, others for another key."""
        return torch.Generator(device or self.device).manual_seed(1000 * self.seed + key)

    def normal(self, *size: int, key: int) -> Tensor:
        """Standard normal values."""
        values = torch.randn(size, generator=self.generator(key), device=self.device)
        return values.to(self.dtype)

    def tokens(self, *size: int, key: int) -> Tensor:
        """Token ids of A, C, G and T."""
        return torch.randint(7, 11, size, generator=self.generator(key), device=self.device)

    def autocast(self) -> torch.autocast:
        """Where models run: their products in `dtype`, unless that is float32."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def describe(self, sizes: Sequence[str]) -> str:
        """These of its sizes, and its dtype."""
        named = (f"{name} {getattr(self, name):,}" for name in sizes)
        return ", ".join([*named, str(self.dtype).removeprefix("torch.")])
