"""The loss of next-token prediction as sums, exact over any number of micro-batches and ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from bioaudio_data.vocabulary import DNA, SOFT_MASK_BIT
from bioaudio_kernels import Ranks
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from bioaudio_mamba import CausalLM, LanguageModel, ModelState, shard_of, sum_over_chunks

LARGEST_NATS = 700.0
"""Beyond it a perplexity is no float any more; only a model that diverges gets there."""


class TokenSums(NamedTuple):
    """Sums over the targets that count: bases (A, C, G or T), samples that are real."""

    weighted_nll: Float[Tensor, ""]
    """Negative log-likelihood times weight, in nats."""
    weight: Float[Tensor, ""]
    """Weights: 1 but for repeats, which have the soft-mask weight."""
    nll: Float[Tensor, ""]
    """Negative log-likelihood, in nats, every target alike."""
    targets: Float[Tensor, ""]
    """How many were predicted."""


def unpack(packed: UInt8[Tensor, "batch length"]) -> Int64[Tensor, "batch length"]:
    """Token ids of packed bases, on their device."""
    return (packed & (SOFT_MASK_BIT - 1)).long()


def next_token_sums(
    model: CausalLM,
    packed: UInt8[Tensor, "batch length"],
    soft_mask_weight: float = 1.0,
    *,
    chunk_length: int | None = None,
    context: Ranks | None = None,
) -> TokenSums:
    """Predict token t + 1 of every window from its tokens up to t, and sum over the batch.

    Args:
        model: the language model.
        packed: token ids with the soft-mask bit above them; they may be on the CPU while the model is on a
            GPU.
        soft_mask_weight: weight of soft-masked targets in the first two sums.
        chunk_length: time steps whose activations a process holds at once (see `sum_over_chunks`); None: all.
        context: the processes that were given the same windows, and share every chunk of them; the sums are
            then those of this one's shards.

    Raises:
        ValueError: the shards of a chunk are too short for the model's convolutions, on all ranks alike.
    """
    device = model.lm_head.weight.device
    # Nothing is to be predicted after the last token.
    following = functional.pad(packed[:, 1:], (0, 1), value=DNA.N)

    def chunk(start: int, end: int, state: ModelState | None) -> tuple[Float[Tensor, " 4"], ModelState]:
        here = slice(0, end - start) if context is None else shard_of(context, end - start)
        here = slice(start + here.start, start + here.stop)
        tokens, targets = (part[:, here].to(device) for part in (packed, following))
        nll, new_state = model.nll(unpack(tokens), unpack(targets), state, context=context)
        return _sums(nll, targets, soft_mask_weight), new_state

    length = packed.shape[1]
    if context is not None:
        if chunk_length is not None:  # so many steps on each, and chunks of nearly one length
            chunk_length = math.ceil(length / math.ceil(length / (chunk_length * context.size)))
        _check_shards(length, chunk_length or length, context.size, model.config.d_conv)
    return sums_in_chunks(model, chunk, length, chunk_length)


def sums_in_chunks(
    model: LanguageModel,
    chunk: Callable[[int, int, Any], tuple[Float[Tensor, " 4"], Any]],
    length: int,
    chunk_length: int | None,
) -> TokenSums:
    """`TokenSums` of whole windows from those of their chunks, as `sum_over_chunks` runs them (None: one)."""
    if chunk_length is None:
        sums, _ = chunk(0, length, None)
    else:
        sums, _ = sum_over_chunks(model, chunk, length, chunk_length)
    weighted_nll, *others = sums.unbind()
    return TokenSums(weighted_nll, *(each.detach() for each in others))


def _check_shards(length: int, chunk_length: int, ranks: int, d_conv: int) -> None:
    """Refuse what one rank alone would stumble over while the others wait for it."""
    last = (length - 1) % chunk_length + 1
    steps, needed = last // ranks, max(1, d_conv - 1)
    if steps < needed:
        raise ValueError(
            f"{ranks} devices share windows of {length} tokens in chunks, the last of {last}, {steps} for "
            f"one; a convolution of width {d_conv} needs {needed}: give another --trainer.chunk_length, a "
            "smaller --trainer.context, or longer windows"
        )


def _sums(
    nll: Float[Tensor, "batch length"], packed: UInt8[Tensor, "batch length"], soft_mask_weight: float
) -> Float[Tensor, " 4"]:
    """`TokenSums` as one vector, of targets and what each of them cost."""
    targets = packed & (SOFT_MASK_BIT - 1)
    is_base = (targets >= DNA.A) & (targets <= DNA.T)
    nll = torch.where(is_base, nll, 0.0)
    weight = is_base.float()
    if soft_mask_weight != 1:
        weight = torch.where((packed & SOFT_MASK_BIT).bool(), weight * soft_mask_weight, weight)
    return torch.stack([(nll * weight).sum(), weight.sum(), nll.detach().sum(), is_base.sum().float()])


def per_target(nats: float, unit: str) -> dict[str, float]:
    """A mean negative log-likelihood in nats, as perplexity and as bits per unit."""
    perplexity = math.exp(nats) if nats < LARGEST_NATS else math.inf
    return {"perplexity": perplexity, f"bits_per_{unit}": nats / math.log(2)}
