"""The sizes and settings of a SaShiMi network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from bioaudio_kernels import BACKENDS, Backend

from bioaudio_mamba.block_config import BlockConfig
from bioaudio_mamba.config import check_positive

NormKind = Literal["rms", "layer"]


@dataclass(frozen=True, kw_only=True)
class SashimiConfig:
    """Sizes of a language model over the codes of a waveform.

    A level is all that runs at one rate: level 0 at that of the samples, level 1 once every pooling[0] of
    them, and so on. All levels but the last, the centre, have a stage on the way down and one on the way up.

    Raises:
        ValueError: a size is not a positive integer, or `blocks` does not fit the levels.
    """

    d_model: int = 64
    """Width of level 0."""
    n_layer: int = 8
    """Blocks of each stage."""
    pooling: tuple[int, ...] = (4, 4)
    """Steps of a level that make one of the next; () leaves a plain stack of blocks."""
    pool_expand: int = 2
    """Width of a level in units of that of the level before it."""
    blocks: tuple[BlockConfig, ...] = (BlockConfig(),)
    """What the stages are made of: one block for all levels, or one for each, level 0 first."""
    unet: bool = True
    """Whether there are blocks on the way down too."""
    vocab_size: int = 256
    """Codes of a sample."""
    n_classes: int = 0
    """Classes that a clip's label chooses from; 0 for a model without labels."""
    norm: NormKind = "rms"
    """Before each block; the last norm of the network is a layer norm."""
    norm_eps: float = 1e-5
    """Added to the mean square or the variance inside every norm."""
    pool_gain: bool = False
    """Whether the projections of the pools are weight-normalised (arXiv 1602.07868)."""
    backend: Backend = "auto"
    """Which kernels run; "auto" picks by device and dtype."""

    def __post_init__(self) -> None:
        for name in ("d_model", "n_layer", "pool_expand", "vocab_size"):
            check_positive(name, getattr(self, name))
        for pool in self.pooling:
            check_positive("pooling", pool)
        if self.n_classes < 0:
            raise ValueError(f"n_classes must be 0 or more, got {self.n_classes}")
        if len(self.blocks) not in (1, self.n_levels):
            raise ValueError(
                f"blocks holds {len(self.blocks)} blocks; {len(self.pooling)} poolings make {self.n_levels} "
                f"levels, so give 1 or {self.n_levels}"
            )
        if self.norm not in get_args(NormKind):
            raise ValueError(f"norm = {self.norm!r} is unknown; use one of {', '.join(get_args(NormKind))}")
        if not self.norm_eps > 0:
            raise ValueError(f"norm_eps must be positive, got {self.norm_eps}")
        if self.backend not in BACKENDS:
            raise ValueError(f"backend = {self.backend!r} is unknown; use one of {', '.join(BACKENDS)}")

    @property
    def n_levels(self) -> int:
        """Levels, the centre counted."""
        return len(self.pooling) + 1

    @property
    def n_blocks(self) -> int:
        """Blocks of the whole network."""
        sides = 2 if self.unet else 1
        return self.n_layer * (sides * len(self.pooling) + 1)

    @property
    def cycle(self) -> int:
        """Samples after which every level has made a whole number of steps: the product of the poolings."""
        return math.prod(self.pooling)

    def width(self, level: int) -> int:
        """Channels of a level."""
        return self.d_model * self.pool_expand**level

    def block(self, level: int) -> BlockConfig:
        """What the stages of a level are made of."""
        return self.blocks[level if len(self.blocks) > 1 else 0]
