"""Tensors that autograd makes again in the backward pass instead of keeping them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

_SWITCH = threading.local()


@contextmanager
def keeping_all() -> Iterator[None]:
    """Turn every `Recompute` off, for a caller that makes all activations again, as checkpointing does.

    What a function needs to make its tensor again would else be kept for each of the caller's activations.
    """
    before = getattr(_SWITCH, "off", False)
    _SWITCH.off = True
    try:
        yield
    finally:
        _SWITCH.off = before


class Recompute:
    """Inside `with recompute:`, a tensor given to `make_again` is not kept for the backward pass.

    There its function runs, once, when the first of the operations that read the tensor needs it. It must
    give the same numbers: a pure function of tensors that autograd keeps anyhow. torch.compile has a rule of
    its own for what to make again, so nothing happens while it traces. Tensors that are kept go through the
    hooks that were there before, such as `torch.autograd.graph.save_on_cpu`.
    """

    def __init__(self, *, active: bool = True) -> None:
        # The tensors live as long as they are looked up by address: a freed address is soon another tensor's.
        self._makers: dict[int, tuple[_Maker, Tensor]] = {}
        self._active = active and not torch.compiler.is_compiling() and _is_wanted()
        self._hooks = saved_tensors_hooks(self._pack, _unpack) if self._active else nullcontext()
        self._outer: tuple[Callable[..., Any], Callable[..., Any]] | None = None

    def __enter__(self) -> Recompute:
        if self._active:
            self._outer = torch._C._autograd._top_saved_tensors_default_hooks(False)  # pyright: ignore
        self._hooks.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._hooks.__exit__(*exception)
        self._makers.clear()

    def make_again(self, tensor: Tensor, function: Callable[[], Tensor]) -> Tensor:
        """The tensor, which is `function()` and shares its memory with no other."""
        if self._active and tensor.numel():
            self._makers[tensor.untyped_storage().data_ptr()] = _Maker(function, tensor), tensor
        return tensor

    def _pack(self, tensor: Tensor) -> Tensor | _View | _Kept:
        maker, _ = self._makers.get(tensor.untyped_storage().data_ptr(), (None, None))
        if maker is None or tensor.dtype != maker.dtype:
            # Detached: an operation that keeps its own result would hold itself, through the result's graph.
            tensor = tensor.detach()
            return tensor if self._outer is None else _Kept(self._outer[0](tensor), self._outer[1])
        return _View(maker, tensor.shape, tensor.stride(), int(tensor.storage_offset()))


class _Maker:
    """A function, the autocast it ran under, and its result once the backward pass has asked for it."""

    def __init__(self, function: Callable[[], Tensor], tensor: Tensor) -> None:
        device = tensor.device.type
        self.dtype = tensor.dtype
        self._function = function
        self._autocast = torch.autocast(
            device,
            torch.get_autocast_dtype(device),
            torch.is_autocast_enabled(device),
            cache_enabled=False,
        )
        self._result: Tensor | None = None

    def result(self) -> Tensor:
        if self._result is None:
            with torch.no_grad(), self._autocast:
                self._result = self._function()
        return self._result


class _View(NamedTuple):
    """A view of what a maker makes. Autograd drops it after use, and the last one takes the result along."""

    maker: _Maker
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


class _Kept(NamedTuple):
    """What the hooks that were there before keep of a tensor."""

    packed: Any
    unpack: Callable[[Any], Tensor]


def _is_wanted() -> bool:
    return torch.is_grad_enabled() and not getattr(_SWITCH, "off", False)


def _unpack(packed: Tensor | _View | _Kept) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    if isinstance(packed, _Kept):
        return packed.unpack(packed.packed)
    return packed.maker.result().as_strided(packed.shape, packed.stride, packed.offset)
