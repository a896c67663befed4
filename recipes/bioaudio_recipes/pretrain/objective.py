"""What a language model is trained to predict: the next base of DNA, or the next sample of a waveform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from bioaudio_data.audio import AudioBatch
from bioaudio_kernels import Ranks
from jaxtyping import Bool, Float, Int64, Integer, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bioaudio_mamba import CausalLM, LanguageModel, ModelState
from bioaudio_recipes.pretrain.next_token_loss import TokenSums, next_token_sums, sums_in_chunks

ChunkLengthOf = Callable[[int], int | None]


class Objective(Protocol):
    """What batches hold, and what is predicted of them."""

    unit: str
    """Of what is predicted, as names of metrics say it: base, sample."""

    def batch(self, windows: Any) -> Any:
        """Tensors of what the windows of this objective's data read."""

    def sums(
        self, model: LanguageModel, batch: Any, chunk_length_of: ChunkLengthOf, context: Ranks | None = None
    ) -> TokenSums:
        """Predict all that counts in a batch.

        Args:
            model: the language model.
            batch: as `batch` makes it; it may be on the CPU while the model is on a GPU.
            chunk_length_of: time steps of a chunk of so many rows, or None to cut nothing.
            context: the processes that share the batch's windows, if any.
        """
        ...


class NextBase:
    """Predicts the base after each token; N counts nothing, repeats as much as they are to.

    Args:
        soft_mask_weight: weight of soft-masked bases.
    """

    unit = "base"

    def __init__(self, soft_mask_weight: float = 1.0) -> None:
        self.soft_mask_weight = soft_mask_weight

    def batch(self, windows: NDArray[np.uint8]) -> UInt8[Tensor, "batch length"]:
        """Packed bases."""
        return torch.from_numpy(windows)

    def sums(
        self,
        model: LanguageModel,
        batch: UInt8[Tensor, "batch length"],
        chunk_length_of: ChunkLengthOf,
        context: Ranks | None = None,
    ) -> TokenSums:
        """See `next_token_sums`."""
        chunk_length = chunk_length_of(len(batch))
        return next_token_sums(
            cast(CausalLM, model), batch, self.soft_mask_weight, chunk_length=chunk_length, context=context
        )


class WaveformBatch(NamedTuple):
    """Windows of waveforms side by side."""

    codes: Integer[Tensor, "batch length"]
    counted: Bool[Tensor, "batch length"]
    """Which samples are to be predicted."""
    labels: Int64[Tensor, " batch"]
    """Classes of the clips; -1 for none."""


class NextSample:
    """Predicts every sample of a window, the first one too: before it the network hears silence.

    Args:
        zero: the code of silence.
        conditional: whether the network is told the label of each clip.
    """

    unit = "sample"

    def __init__(self, zero: int, *, conditional: bool = False) -> None:
        self.zero = zero
        self.conditional = conditional

    def batch(self, windows: AudioBatch) -> WaveformBatch:
        """Codes, which of them count, and labels."""
        return WaveformBatch(*map(torch.from_numpy, windows))

    def sums(
        self,
        model: LanguageModel,
        batch: WaveformBatch,
        chunk_length_of: ChunkLengthOf,
        context: Ranks | None = None,
    ) -> TokenSums:
        """Negative log-likelihoods of the samples that count; their weights are all 1."""
        assert context is None, "a waveform is not shared by several processes"
        device = model.lm_head.weight.device
        options = {"labels": batch.labels.to(device)} if self.conditional else {}
        heard = functional.pad(batch.codes[:, :-1], (1, 0), value=self.zero)

        def chunk(start: int, end: int, state: ModelState | None) -> tuple[Float[Tensor, " 4"], ModelState]:
            tokens, targets, counted = (
                part[:, start:end].to(device) for part in (heard, batch.codes, batch.counted)
            )
            nll, new_state = model.nll(tokens, targets.long(), state, **options)
            total = torch.where(counted, nll, 0.0).sum()
            number = counted.sum().float()
            return torch.stack([total, number, total.detach(), number]), new_state

        rows, length = batch.codes.shape
        return sums_in_chunks(model, chunk, length, chunk_length_of(rows))
