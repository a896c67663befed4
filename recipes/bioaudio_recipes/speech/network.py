"""The classifier's network: three convolutions over log-mel energies, a vector of features, a linear head."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

CHANNELS = 64
FEATURES = 64
"""Width of the penultimate layer. Small, so that a few hundred clips have a covariance of full rank."""
DROPOUT = 0.2


class SpeechNetwork(nn.Module):
    """Log-mel energies to features and logits.

    Args:
        n_classes: labels to tell apart.
        bands: mel bands of the energies.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, n_classes: int, bands: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        self.convolutions = nn.Sequential(
            *_convolution(1, CHANNELS // 2, 5),
            *_convolution(CHANNELS // 2, CHANNELS, 3),
            *_convolution(CHANNELS, CHANNELS, 3),
        )
        width = CHANNELS * -(-bands // 8)  # bands are halved three times, rounding up
        self.features = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(width, FEATURES), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(FEATURES, n_classes))

    def fit_scale(self, energies: Float[Tensor, "clips bands frames"]) -> None:
        """Remember mean and standard deviation of the training set, by which all energies are scaled."""
        self.mean.copy_(energies.mean())
        self.scale.copy_(energies.std())

    def forward(
        self, energies: Float[Tensor, "batch bands frames"]
    ) -> tuple[Float[Tensor, "batch features"], Float[Tensor, "batch classes"]]:
        """Features, from the greatest output of the last convolution over time in each band; and logits."""
        scaled = (energies - self.mean) / self.scale
        features = self.features(self.convolutions(scaled.unsqueeze(1)).amax(3).flatten(1))
        return features, self.head(features)


def _convolution(channels: int, out: int, size: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels, out, size, stride=2, padding=size // 2, bias=False)
    return convolution, nn.BatchNorm2d(out), nn.ReLU()
