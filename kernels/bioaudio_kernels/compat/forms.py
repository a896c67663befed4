"""The forms that arguments of mamba_ssm's functions may take."""

from __future__ import annotations

from jaxtyping import Float, Inexact
from torch import Tensor

ScanMap = (
    Inexact[Tensor, "dim dstate"]
    | Inexact[Tensor, "batch dstate _length_or_pairs"]
    | Inexact[Tensor, "batch _ngroups dstate _length_or_pairs"]
)
StepChannels = Float[Tensor, "batch dim"] | Float[Tensor, "batch nheads dim"]
StepMap = Inexact[Tensor, "batch dstate"] | Inexact[Tensor, "batch ngroups dstate"]
OfChannels = Float[Tensor, " dim"] | Float[Tensor, "nheads dim"]
OfChannelsAndStates = Inexact[Tensor, "dim dstate"] | Inexact[Tensor, "nheads dim dstate"]
States = Inexact[Tensor, "rows dim dstate"] | Inexact[Tensor, "rows nheads dim dstate"]
ConvSteps = Float[Tensor, "batch dim"] | Float[Tensor, "batch dim length"]
