"""A forward and a backward pass as one CUDA graph: the host has one launch to make, not thousands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_flatten, tree_map_only

from bioaudio_recipes.cuda_graph import Record, cuda_graph


class RecordedPass:
    """A function of a batch and the gradients of its first result, recorded at the first batch of a shape.

    The numbers are those of the function itself. Only the recording of the last shape is kept, since it
    keeps the memory of the activations; every change of shape costs four passes.

    DistributedDataParallel around it must have been made on a stream of its own, as Lightning does, or the
    gradients stay bound to the default stream, which cannot be recorded. It adds the gradients up over the
    processes after the pass, not during it.

    Args:
        function: gives scalars, of which the first is differentiable; it must not wait for the device, draw
            random numbers, or depend on anything but the batch and the parameters.
        parameters: what to differentiate by.
        record: see `cuda_graph`.
    """

    def __init__(
        self,
        function: Callable[[Any], Sequence[Float[Tensor, ""]]],
        parameters: Iterable[nn.Parameter],
        record: Record = cuda_graph,
    ) -> None:
        self._function = function
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._record = record
        self._key: Any = None
        self._batch: Any = None
        self._replay: Callable[[], tuple[list[Tensor], tuple[Tensor | None, ...]]] | None = None

    def __call__(self, batch: Any) -> list[Float[Tensor, ""]]:
        """The function's results; the first can be differentiated once, before the next call.

        Args:
            batch: tensors, nothing else, on the device of the parameters, in nested tuples.

        Raises:
            RecordingError: the function cannot be recorded.
        """
        tensors, structure = tree_flatten(batch)
        key = structure, [(tensor.shape, tensor.dtype) for tensor in tensors]
        if self._replay is None or key != self._key:
            self._replay = None  # frees what the last recording holds
            self._key, self._batch = key, tree_map_only(Tensor, torch.clone, batch)
            self._replay = self._record(self._pass)
        for here, tensor in zip(tree_flatten(self._batch)[0], tensors, strict=True):
            here.copy_(tensor)
        results, gradients = self._replay()
        first, *others = (result.clone() for result in results)
        used = [p for p, gradient in zip(self._parameters, gradients, strict=True) if gradient is not None]
        found = [gradient for gradient in gradients if gradient is not None]
        return [_WithGradients.apply(first, found, *used), *others]

    def forget(self) -> None:
        """Give back the memory of the recording; the next call records anew."""
        self._replay = self._batch = None

    def _pass(self) -> tuple[list[Tensor], tuple[Tensor | None, ...]]:
        device = self._parameters[0].device.type
        dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        # Without its cache, which would keep casts of the weights out of the recording.
        with torch.enable_grad(), torch.autocast(device, dtype, enabled, cache_enabled=False):
            results = self._function(self._batch)
            gradients = torch.autograd.grad(results[0], self._parameters, allow_unused=True)
        return [result.detach() for result in results], gradients


class _WithGradients(torch.autograd.Function):
    """A value whose gradients are known."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_value: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, None, *torch._foreach_mul(ctx.gradients, d_value)  # pyright: ignore
