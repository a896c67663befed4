"""Training the classifier of speech: a fixed number of passes, the same weights for the same seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from bioaudio_recipes.speech.network import SpeechNetwork

MOST_SHIFT = 0.1
"""Of a clip's frames: how far it is moved at random, to either side, in each pass."""
SMOOTHING = 0.03
"""Of the labels. Without it a classifier that is right gets ever surer of it, and mIS, which has no greatest
value, says how long it was trained. With it, real spoken digits score about what the published tables say."""


@dataclass(frozen=True, kw_only=True)
class ClassifierTraining:
    """How the classifier is trained.

    Raises:
        ValueError: for a number that is not positive.
    """

    seconds: float = 1.0
    """What is heard of a clip: longer ones are cut, shorter ones filled up with silence."""
    epochs: int = 15
    """Passes over the train split."""
    batch_size: int = 64
    """Clips in a step."""
    learning_rate: float = 3e-3
    """Peak of AdamW's, reached after a tenth of the steps and then falling to 0 as a cosine."""
    seed: int = 0
    """Of weights, order and shifts."""

    def __post_init__(self) -> None:
        for name in ("seconds", "epochs", "batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"--training.{name} must be above 0, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"--training.seed must be 0 or more, got {self.seed}")


def train_network(
    energies: Float[Tensor, "clips bands frames"],
    labels: Int64[Tensor, " clips"],
    n_classes: int,
    config: ClassifierTraining,
    device: torch.device,
    *,
    progress: bool = True,
) -> SpeechNetwork:
    """A network trained on all clips, in evaluation mode, on `device`.

    Args:
        energies: of the training clips.
        labels: their classes.
        n_classes: number of classes.
        config: how long, and from which seed.
        device: where it is trained.
        progress: show a bar on stderr, if that is a terminal.
    """
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)  # weights and dropout
        network = SpeechNetwork(n_classes, energies.shape[1])
        network.fit_scale(energies)
        network.to(device).train()
        steps = config.epochs * -(-len(labels) // config.batch_size)
        optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, config.learning_rate, steps, pct_start=0.1, cycle_momentum=False
        )
        bar = tqdm(total=steps, desc="train the classifier", leave=False, disable=None if progress else True)
        for _ in range(config.epochs):
            for rows in torch.randperm(len(labels), generator=generator).split(config.batch_size):
                batch = shifted(energies[rows], float(energies.min()), generator).to(device)
                _, logits = network(batch)
                loss = functional.cross_entropy(logits, labels[rows].to(device), label_smoothing=SMOOTHING)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
        bar.close()
    return network.eval()


def shifted(
    energies: Float[Tensor, "batch bands frames"], silence: float, generator: torch.Generator
) -> Float[Tensor, "batch bands frames"]:
    """Every clip moved in time by a random number of frames; what comes in is silence."""
    batch, bands, frames = energies.shape
    most = max(1, int(MOST_SHIFT * frames))
    padded = functional.pad(energies, (most, most), value=silence)
    starts = torch.randint(0, 2 * most + 1, (batch, 1, 1), generator=generator)
    return padded.gather(2, (starts + torch.arange(frames)).expand(batch, bands, frames))
