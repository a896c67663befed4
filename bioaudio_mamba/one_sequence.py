"""The refusal of what only some blocks can do: packed sequences, and a sequence shared by several ranks."""

from __future__ import annotations

from bioaudio_kernels import Ranks
from torch import Tensor


def check_one_sequence(who: str, cu_seqlens: Tensor | None, context: Ranks | None) -> None:
    """Refuse both.

    Raises:
        ValueError: naming what was given, and to whom.
    """
    for name, given in (("cu_seqlens", cu_seqlens), ("context", context)):
        if given is not None:
            raise ValueError(
                f"{who} reads whole sequences, one a row, on one rank: {name} must be None; only stacks of "
                "Mamba blocks with a selective SSM pack sequences or share them among ranks"
            )
