"""Root-mean-square normalisation (arXiv 1910.07467), and layer normalisation with the same interface."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from bioaudio_kernels import Backend, add_layer_norm, add_rms_norm
from jaxtyping import Float
from torch import Tensor, nn

from bioaudio_mamba.precision import at_least_float32, product_dtype


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x²) + eps) * weight, the mean over the last dimension.

    The residual stream that enters is float32 (see `Mamba`), and so are the statistics. The result has the
    dtype in which the next projection reads it: autocast's, or else that of `weight`.
    """

    def __init__(self, d_model: int, eps: float = 1e-5, backend: Backend = "auto") -> None:
        super().__init__()
        self.eps = eps
        self.backend: Backend = backend
        self.weight = nn.Parameter(torch.empty(d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights of one."""
        nn.init.ones_(self.weight)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Normalise the last dimension of `x`; torch's own norm, for a single step the quickest to call."""
        wide = at_least_float32(x)
        y = F.rms_norm(wide, self.weight.shape, self.weight.to(wide.dtype), self.eps)
        return y.to(product_dtype(self.weight))

    def add(
        self, y: Float[Tensor, "*batch d_model"] | None, residual: Float[Tensor, "*batch d_model"]
    ) -> tuple[Float[Tensor, "*batch d_model"], Float[Tensor, "*batch d_model"]]:
        """The norm of residual + y (None adds nothing), and the sum itself: in one pass over memory."""
        dtype = product_dtype(self.weight)
        return add_rms_norm(y, residual, self.weight, self.eps, dtype=dtype, backend=self.backend)

    def again(self, total: Float[Tensor, "*batch d_model"]) -> Callable[[], Float[Tensor, "*batch d_model"]]:
        """What makes the norm of a sum again, later, with the weights of now."""
        weight, dtype = self.weight, product_dtype(self.weight)
        return lambda: add_rms_norm(None, total, weight, self.eps, dtype=dtype, backend=self.backend)[0]

    def extra_repr(self) -> str:
        """Shown by repr()."""
        return f"{self.weight.shape[0]}, eps={self.eps}"


class LayerNorm(nn.LayerNorm):
    """y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias; dtypes are those of `RMSNorm`."""

    def __init__(self, d_model: int, eps: float = 1e-5, backend: Backend = "auto") -> None:
        super().__init__(d_model, eps)
        self.backend: Backend = backend

    def forward(self, input: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Normalise the last dimension; torch's own norm, for a single step the quickest to call."""
        wide = at_least_float32(input)
        weight, bias = self.weight.to(wide.dtype), self.bias.to(wide.dtype)
        return F.layer_norm(wide, weight.shape, weight, bias, self.eps).to(product_dtype(self.weight))

    def add(
        self, y: Float[Tensor, "*batch d_model"] | None, residual: Float[Tensor, "*batch d_model"]
    ) -> tuple[Float[Tensor, "*batch d_model"], Float[Tensor, "*batch d_model"]]:
        """See `RMSNorm`."""
        options = {"dtype": product_dtype(self.weight), "backend": self.backend}
        return add_layer_norm(y, residual, self.weight, self.bias, self.eps, **options)

    def again(self, total: Float[Tensor, "*batch d_model"]) -> Callable[[], Float[Tensor, "*batch d_model"]]:
        """See `RMSNorm`."""
        arguments = total, self.weight, self.bias, self.eps
        options = {"dtype": product_dtype(self.weight), "backend": self.backend}
        return lambda: add_layer_norm(None, *arguments, **options)[0]
