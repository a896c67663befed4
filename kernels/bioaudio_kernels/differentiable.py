"""`torch.library.register_autograd` at a fraction of its cost per call, which can hold up a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_LIBRARY = torch.library.Library("bioaudio", "FRAGMENT")


def register_autograd(
    op: torch._ops.OpOverload,
    differentiate: Callable[..., tuple[Tensor | None, ...]],
    setup_context: Callable[[Any, tuple[Any, ...], Any], None],
) -> None:
    """Make an operator of the namespace bioaudio differentiable, once.

    Its arguments are all positional and without defaults. Unlike `torch.library.register_autograd` this takes
    no part of a call through pytrees of arguments, of which torch needs some 100 microseconds.

    Args:
        op: the operator, registered for its devices and for fake tensors.
        differentiate: (ctx, gradient of each result) -> gradient of each argument.
        setup_context: (ctx, arguments, results), to keep in ctx what `differentiate` needs.
    """

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                results = op(*arguments)
            setup_context(ctx, arguments, results)
            return results

        backward: Any = staticmethod(once_differentiable(differentiate))

    def call(*arguments: Any) -> Any:
        if torch.is_grad_enabled() and any(
            isinstance(argument, Tensor) and argument.requires_grad for argument in arguments
        ):
            return Differentiable.apply(*arguments)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*arguments)

    _LIBRARY.impl(op, call, "Autograd")
