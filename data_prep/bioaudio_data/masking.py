"""Which target tokens count in the loss, and how much: N never does, repeats may count less."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bioaudio_data.vocabulary import DNA


def valid_targets(targets: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Whether each target token is a base: A, C, G or T, and not N, padding or another special token.

    Args:
        targets: token ids, any shape.
    """
    return (targets >= DNA.A) & (targets <= DNA.T)


def loss_weights(
    targets: NDArray[np.integer], soft_mask: NDArray[np.bool_] | None = None, soft_mask_weight: float = 1.0
) -> NDArray[np.float32]:
    """Weight of each target in the loss, whose sum is divided by the sum of these weights.

    A window of nothing but N adds 0 to both sums, so it cannot poison a batch that has other windows. GPN and
    Evo 2 give repeats (soft-masked: lower case in FASTA) a weight of 0.1.

    Args:
        targets: token ids, any shape; for a causal model, tokens 1 .. L - 1 of a window.
        soft_mask: whether each target is soft-masked, in the shape of `targets`; None where no base is.
        soft_mask_weight: weight of a soft-masked base, 0 to 1.

    Returns:
        float32 in the shape of `targets`: 0 for what is no base, `soft_mask_weight` for a repeat, else 1.

    Raises:
        ValueError: for a weight outside 0 .. 1 or a mask of another shape.
    """
    if not 0 <= soft_mask_weight <= 1:
        raise ValueError(f"soft_mask_weight must lie between 0 and 1, got {soft_mask_weight}")
    weights = valid_targets(targets).astype(np.float32)
    if soft_mask is not None:
        if soft_mask.shape != targets.shape:
            raise ValueError(f"soft_mask has shape {soft_mask.shape}, the targets have {targets.shape}")
        weights[soft_mask] *= np.float32(soft_mask_weight)
    return weights
