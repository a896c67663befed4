"""Inputs of `add_rms_norm` and `add_layer_norm`, and what the float64 reference makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from bioaudio_kernels.add_norm.reference import add_norm_reference
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, assert_close
from torch import Tensor

Norm = Callable[[Tensor | None, Tensor, Tensor, Tensor | None, float, torch.dtype], tuple[Tensor, Tensor]]
NAMES = ("y", "residual", "weight", "bias")


@dataclass(frozen=True, kw_only=True)
class NormCase:
    """Sizes, dtypes and which results are read."""

    shape: tuple[int, ...] = (2, 5, 24)
    y: torch.dtype | None = torch.bfloat16
    """None is no y."""
    normed: torch.dtype = torch.bfloat16
    weight: torch.dtype = torch.float32
    bias: bool = False
    """Whether it is a layer norm."""
    reads: tuple[bool, bool] = (True, True)
    """Whether gradients come from the normed sum, and from the sum."""

    def tensors(self, device: str = "cpu") -> list[Tensor | None]:
        """y, residual, weight and bias."""
        generator = torch.Generator().manual_seed(sum(self.shape))

        def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.randn(*shape, generator=generator).to(device, dtype).requires_grad_()

        y = None if self.y is None else normal(*self.shape, dtype=self.y)
        residual = normal(*self.shape)
        weight, bias = (normal(self.shape[-1], dtype=self.weight) for _ in range(2))
        return [y, residual, weight, bias if self.bias else None]

    def check(self, norm: Norm, device: str = "cpu") -> None:
        """Outputs and gradients agree with the reference in float64."""
        tensors = self.tensors(device)
        generator = torch.Generator().manual_seed(1)
        weights = [torch.randn(self.shape, generator=generator).to(device) for _ in range(2)]

        def run(
            norm: Norm, tensors: list[Tensor | None], dtype: torch.dtype
        ) -> tuple[list[Tensor], list[Tensor]]:
            y, residual, weight, bias = tensors
            assert residual is not None
            assert weight is not None
            results = norm(y, residual, weight, bias, 1e-3, dtype)
            read = [
                (result * w.to(result.dtype)).sum().double()
                for result, w, is_read in zip(results, weights, self.reads, strict=True)
                if is_read
            ]
            inputs = [tensor for tensor in tensors if tensor is not None]
            found = torch.autograd.grad(torch.stack(read).sum(), inputs, allow_unused=True)
            zeros = [torch.zeros_like(tensor) for tensor in inputs]
            gradients = [zero if g is None else g for g, zero in zip(found, zeros, strict=True)]
            return list(results), gradients

        exact = [None if t is None else t.detach().double().requires_grad_() for t in tensors]
        expected, d_expected = run(add_norm_reference, exact, torch.float64)
        actual, d_actual = run(norm, tensors, self.normed)
        assert actual[0].dtype == self.normed
        assert actual[1].dtype == torch.float32
        assert_close(actual[0], expected[0], OUTPUT_RTOL[self.normed], "normed")
        assert_close(actual[1], expected[1], OUTPUT_RTOL[torch.float32], "sum")
        names = [name for name, tensor in zip(NAMES, tensors, strict=True) if tensor is not None]
        for name, ours, theirs in zip(names, d_actual, d_expected, strict=True):
            rtol = max(GRADIENT_RTOL[self.normed], GRADIENT_RTOL[ours.dtype])
            assert_close(ours, theirs, rtol, f"gradient of {name}")


CASES = [
    NormCase(),
    NormCase(y=torch.float32, normed=torch.float32, shape=(7, 32)),
    NormCase(y=None, normed=torch.float32, reads=(True, True)),
    NormCase(y=torch.float32, normed=torch.float32, reads=(False, True)),
    NormCase(y=torch.float16, normed=torch.float32, reads=(True, False), shape=(1, 40)),
    NormCase(weight=torch.bfloat16, shape=(3, 1, 8)),
]
CASES += [replace(case, bias=True) for case in CASES]
