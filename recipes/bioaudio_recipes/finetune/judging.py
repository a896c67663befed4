"""What a classifier makes of held-out examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from bioaudio_data.vocabulary import DNA
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from bioaudio_mamba import SequenceClassifier
from bioaudio_recipes.finetune.batches import collate
from bioaudio_recipes.finetune.scores import Scores, confusion_matrix
from bioaudio_recipes.finetune.task import Example, HeldOut


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Classifies every example once, in order, on the device of the model."""

    classes: tuple[str, ...]
    """Names of the classes."""
    tokens_per_batch: int
    """Most tokens that go through the model at once, if more than one example."""
    bf16: bool = False
    """Run the model in bfloat16 autocast."""
    both_strands: bool = False
    """Average the logits of a sequence and of its reverse complement."""
    progress: bool = False
    """Show a bar on stderr."""

    @torch.inference_mode()
    def __call__(self, model: SequenceClassifier, examples: HeldOut, length: int) -> Scores:
        """Scores of a model.

        Args:
            model: what is judged.
            examples: what it classifies.
            length: most bases of an example.
        """
        size = max(1, self.tokens_per_batch // length)
        logits, labels = [], []
        bar = tqdm(
            total=examples.count, desc=f"evaluate, length {length}", leave=False, disable=not self.progress
        )
        for first in range(0, examples.count, size):
            batch = [examples.read(i) for i in range(first, min(first + size, examples.count))]
            logits.append(self._logits(model, batch).cpu())
            labels += [label for _, label in batch]
            bar.update(len(batch))
        bar.close()
        scores = torch.cat(logits)
        return Scores(
            classes=self.classes,
            confusion=confusion_matrix(labels, scores.argmax(dim=1).tolist(), len(self.classes)),
            loss=functional.cross_entropy(scores, torch.tensor(labels)).item(),
            independent=examples.independent,
        )

    def _logits(self, model: SequenceClassifier, examples: Sequence[Example]) -> Tensor:
        """Logits in float32 (batch, n_classes)."""
        forward = self._one_strand(model, examples)
        if not self.both_strands:
            return forward
        opposite = [(DNA.reverse_complement(tokens), label) for tokens, label in examples]
        return (forward + self._one_strand(model, opposite)) / 2

    def _one_strand(self, model: SequenceClassifier, examples: Sequence[Example]) -> Tensor:
        device = model.head.weight.device
        batch = collate(examples)
        lengths = None if batch.lengths is None else batch.lengths.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            return model(batch.tokens.to(device).long(), lengths).float()
