"""What a classifier makes of held-out examples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from bioaudio_data.vocabulary import DNA
from bioaudio_mamba import SequenceClassifier
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from bioaudio_recipes.finetune.batches import collate
from bioaudio_recipes.finetune.scores import Scores, confusion_matrix
from bioaudio_recipes.finetune.task import Example, HeldOut


@torch.inference_mode()
def judge(
    model: SequenceClassifier,
    examples: HeldOut,
    classes: Sequence[str],
    *,
    length: int,
    tokens_per_batch: int,
    both_strands: bool = False,
    precision: torch.dtype = torch.float32,
    progress: bool = False,
) -> Scores:
    """Classify every example once, in order, on the device of the model.

    Args:
        model: left in the mode (train or eval) in which it came.
        examples: what to classify.
        classes: names of the classes.
        length: most bases of an example, for the size of batches.
        tokens_per_batch: most tokens that go through the model at once.
        both_strands: average the logits of a sequence and of its reverse complement.
        precision: bfloat16 runs the model in autocast.
        progress: show a bar on stderr.
    """
    size = max(1, tokens_per_batch // length)
    training = model.training
    model.eval()
    logits, labels = [], []
    bar = tqdm(total=examples.count, desc=f"evaluate {length:,} bases", leave=False, disable=not progress)
    for first in range(0, examples.count, size):
        batch = [examples.read(i) for i in range(first, min(first + size, examples.count))]
        labels += [label for _, label in batch]
        scores = _logits(model, batch, precision)
        if both_strands:
            opposite = [(DNA.reverse_complement(tokens), label) for tokens, label in batch]
            scores = (scores + _logits(model, opposite, precision)) / 2
        logits.append(scores.cpu())
        bar.update(len(batch))
    bar.close()
    model.train(training)
    everything, truth = torch.cat(logits), torch.tensor(labels)
    return Scores(
        classes=tuple(classes),
        confusion=confusion_matrix(labels, everything.argmax(dim=1).numpy(), len(classes)),
        loss=functional.cross_entropy(everything, truth).item(),
        independent=examples.independent,
    )


def _logits(model: SequenceClassifier, examples: Sequence[Example], precision: torch.dtype) -> Tensor:
    """Logits in float32 (batch, n_classes)."""
    device = model.head.weight.device
    batch = collate(examples)
    lengths = None if batch.lengths is None else batch.lengths.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
        return model(batch.tokens.to(device).long(), lengths).float()
