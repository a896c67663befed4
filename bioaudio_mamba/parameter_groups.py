"""Which parameters weight decay may touch, decided by name.

Marks set on the parameters themselves are lost by deepcopy, `to_empty` and FSDP2; names are not.
"""

from __future__ import annotations

from typing import Any

from torch import nn

_NEVER_DECAYED = ("A_log", "D", "bias")
_NORMS = ("norm", "norm_f")


def optimizer_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups for a torch optimizer: with `weight_decay`, and without.

    A_log and D (decay would pull the time scales to one value), biases and the weights of norms are left
    alone; the embedding decays. Frozen parameters are in neither group.

    Raises:
        ValueError: `weight_decay` is negative, or no parameter of the model is trained.
    """
    if weight_decay < 0:
        raise ValueError(f"weight_decay must not be negative, got {weight_decay}")
    decayed, spared = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (decayed if _decays(name) else spared).append(parameter)
    if not decayed and not spared:
        raise ValueError("no parameter to train: all of the model is frozen")
    return [
        {"name": "decay", "params": decayed, "weight_decay": weight_decay},
        {"name": "no_decay", "params": spared, "weight_decay": 0.0},
    ]


def count_parameters(model: nn.Module) -> int:
    """Number of weights, those shared by two layers counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _decays(name: str) -> bool:
    *path, leaf = name.split(".")
    return leaf not in _NEVER_DECAYED and not (path and path[-1] in _NORMS)
