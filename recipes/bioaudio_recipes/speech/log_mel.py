"""Clips as a classifier hears them: loudness taken out, log energies in mel bands (Stevens et al. 1937)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

FLOOR = 1e-6
"""Added to an energy before its logarithm; a clip's loudest sample is 1."""


@dataclass(frozen=True, kw_only=True)
class LogMelConfig:
    """What of a clip is heard, and how finely.

    Raises:
        ValueError: for a rate, length or number of bands that is not positive.
    """

    sample_rate: int
    """Samples a second."""
    seconds: float = 1.0
    """Length that a clip is cut or filled up to with silence."""
    bands: int = 40
    """Mel bands from 0 Hz to half the sample rate."""
    window_seconds: float = 0.032
    """Length of the Hann window of one spectrum."""
    hop_seconds: float = 0.01
    """From one spectrum to the next."""

    def __post_init__(self) -> None:
        for name in ("sample_rate", "seconds", "bands", "window_seconds", "hop_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")

    @property
    def samples(self) -> int:
        """Samples of a clip."""
        return max(self.window, round(self.seconds * self.sample_rate))

    @property
    def window(self) -> int:
        """Samples of a spectrum."""
        return max(2, round(self.window_seconds * self.sample_rate))

    @property
    def hop(self) -> int:
        """Samples from one spectrum to the next."""
        return max(1, round(self.hop_seconds * self.sample_rate))

    @property
    def fft(self) -> int:
        """Samples of a spectrum with zeros up to a power of two."""
        return 1 << (self.window - 1).bit_length()


def fitted(wave: Float[Tensor, " length"], samples: int) -> Float[Tensor, " samples"]:
    """A wave cut or filled up with zeros to `samples`, then scaled to a loudest sample of 1."""
    wave = torch.nn.functional.pad(wave[:samples], (0, max(0, samples - len(wave))))
    peak = wave.abs().max()
    return wave / peak if peak > 0 else wave


def log_mel(
    waves: Float[Tensor, "batch samples"], config: LogMelConfig
) -> Float[Tensor, "batch bands frames"]:
    """Natural logarithms of the energy in each mel band, one frame every `hop` samples."""
    window = torch.hann_window(config.window, device=waves.device)
    spectrum = torch.stft(
        waves, config.fft, config.hop, config.window, window, pad_mode="constant", return_complex=True
    )
    energy = spectrum.abs().square() / window.square().sum()
    return torch.log(mel_filters(config).to(waves.device) @ energy + FLOOR)


def mel_filters(config: LogMelConfig) -> Float[Tensor, "bands bins"]:
    """Triangles of height 1, their corners at equal steps of mel = 2595 log10(1 + f / 700 Hz)."""
    top = 2595 * torch.log10(torch.tensor(1 + config.sample_rate / 2 / 700, dtype=torch.float64))
    mels = torch.linspace(0, 1, config.bands + 2, dtype=torch.float64) * top
    corners = 700 * (10 ** (mels / 2595) - 1)
    bins = torch.linspace(0, config.sample_rate / 2, config.fft // 2 + 1, dtype=torch.float64)
    low, middle, high = (corners[i : i + config.bands, None] for i in range(3))
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return torch.minimum(rising, falling).clamp(min=0).float()
