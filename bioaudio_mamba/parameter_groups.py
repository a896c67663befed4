"""Which parameters weight decay may touch, and which learn at a rate of their own, decided by name.

Marks set on the parameters themselves are lost by deepcopy, `to_empty` and FSDP2; names are not.
"""

from __future__ import annotations

from typing import Any

from torch import nn

_NEVER_DECAYED = ("A_log", "A_imag", "D", "bias", "gain")
_NORMS = ("norm", "norm_f")
_TIME_INVARIANT = ("A_log", "A_imag", "B", "log_dt")
"""What makes the kernel of a module named s4d, C and D apart."""


def optimizer_groups(
    model: nn.Module, weight_decay: float, lti_learning_rate: float | None = None
) -> list[dict[str, Any]]:
    """Parameter groups for a torch optimizer: "decay", with `weight_decay`, and "no_decay", without.

    A_log and D (decay would pull the time scales to one value), biases and the weights of norms are left
    alone; the embedding decays. Frozen parameters are in no group. A model with S4D has a third group, "lti":
    A, B and dt, not decayed, with a learning rate of their own.

    Args:
        model: whose parameters are named as in this package.
        weight_decay: of the first group.
        lti_learning_rate: of the third; None leaves it to the optimizer.

    Raises:
        ValueError: `weight_decay` is negative, or no parameter of the model is trained.
    """
    if weight_decay < 0:
        raise ValueError(f"weight_decay must not be negative, got {weight_decay}")
    groups: dict[str, dict[str, Any]] = {
        "decay": {"weight_decay": weight_decay},
        "no_decay": {"weight_decay": 0.0},
        "lti": {"weight_decay": 0.0} | ({} if lti_learning_rate is None else {"lr": lti_learning_rate}),
    }
    members: dict[str, list[nn.Parameter]] = {name: [] for name in groups}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members[_group(name)].append(parameter)
    if not any(members.values()):
        raise ValueError("no parameter to train: all of the model is frozen")
    return [
        {"name": name, "params": members[name], **settings}
        for name, settings in groups.items()
        if name != "lti" or members[name]
    ]


def count_parameters(model: nn.Module) -> int:
    """Number of weights, those shared by two layers counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _group(name: str) -> str:
    *path, leaf = name.split(".")
    owner = path[-1] if path else ""
    if owner == "s4d" and leaf in _TIME_INVARIANT:
        return "lti"
    return "no_decay" if leaf in _NEVER_DECAYED or owner in _NORMS else "decay"
