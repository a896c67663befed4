"""Counting models: of DNA, the next base predicted by counting what followed the same few bases before.

They are the honest bar for a neural model on small data: counted on the same training bases, both strands,
tuned on the validation split and scored on the same test bases. For audio, `CodeCounts` is the bar.
"""

from bioaudio_recipes.counting.baselines import (
    DEFAULT_BASELINES,
    Baseline,
    BaselineScore,
    CountingBaselines,
)
from bioaudio_recipes.counting.codes import CodeCounts
from bioaudio_recipes.counting.contexts import BREAK, MAX_ORDER, context_keys, reverse_complement, symbols_of
from bioaudio_recipes.counting.table import ContextTable, Evidence

__all__ = [
    "BREAK",
    "DEFAULT_BASELINES",
    "MAX_ORDER",
    "Baseline",
    "BaselineScore",
    "CodeCounts",
    "ContextTable",
    "CountingBaselines",
    "Evidence",
    "context_keys",
    "reverse_complement",
    "symbols_of",
]
