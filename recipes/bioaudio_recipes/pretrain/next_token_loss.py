"""The loss of next-token prediction as sums, exact over any number of micro-batches and ranks."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from bioaudio_data.vocabulary import DNA, SOFT_MASK_BIT
from bioaudio_kernels import Ranks
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from bioaudio_mamba import shard_of

LARGEST_NATS = 700.0
"""Beyond it a perplexity is no float any more; only a model that diverges gets there."""


class TokenSums(NamedTuple):
    """Sums over the targets that are a base (A, C, G or T); all others count nothing."""

    weighted_nll: Float[Tensor, ""]
    """Negative log-likelihood times weight, in nats."""
    weight: Float[Tensor, ""]
    """Weights: 1, or the soft-mask weight in repeats."""
    nll: Float[Tensor, ""]
    """Negative log-likelihood, in nats, every base alike."""
    bases: Float[Tensor, ""]
    """How many bases were predicted."""


def unpack(packed: UInt8[Tensor, "batch length"]) -> Int64[Tensor, "batch length"]:
    """Token ids of packed bases, on their device."""
    return (packed & (SOFT_MASK_BIT - 1)).long()


def next_token_sums(
    model: nn.Module,
    packed: UInt8[Tensor, "batch length"],
    soft_mask_weight: float = 1.0,
    context: Ranks | None = None,
) -> TokenSums:
    """Predict token t + 1 of every window from its tokens up to t, and sum over the batch.

    Args:
        model: a `CausalLM`, or what has its `forward`.
        packed: token ids with the soft-mask bit above them.
        soft_mask_weight: weight of soft-masked targets in the first two sums.
        context: the processes that were given the same windows; the sums are then those of this one's part.
    """
    tokens = unpack(packed)
    if context is None:
        logits, _ = model(tokens)
    else:
        here = shard_of(context, packed.shape[1])
        logits, _ = model(tokens[:, here], context=context)
        # The target of a part's last token is the first token of the next part.
        packed = packed[:, here.start : here.stop + 1]
        tokens = tokens[:, here.start : here.stop + 1]
    targets = tokens[:, 1:].flatten()
    predicting = logits[:, : tokens.shape[1] - 1]
    nll = functional.cross_entropy(predicting.float().flatten(0, 1), targets, reduction="none")
    is_base = (targets >= DNA.A) & (targets <= DNA.T)
    nll = torch.where(is_base, nll, 0.0)
    weight = is_base.float()
    if soft_mask_weight != 1:
        masked = (packed[:, 1:].flatten() & SOFT_MASK_BIT).bool()
        weight = torch.where(masked, weight * soft_mask_weight, weight)
    return TokenSums((nll * weight).sum(), weight.sum(), nll.detach().sum(), is_base.sum().float())


def per_base(nats: float) -> dict[str, float]:
    """A mean negative log-likelihood in nats, as perplexity and as bits per base."""
    perplexity = math.exp(nats) if nats < LARGEST_NATS else math.inf
    return {"perplexity": perplexity, "bits_per_base": nats / math.log(2)}
