"""The forms that the scan's arguments may take: varying in time or constant, shared by channels or not."""

from __future__ import annotations

from jaxtyping import Float, Inexact
from torch import Tensor

ScanDt = Float[Tensor, "batch length d_inner"] | Float[Tensor, " d_inner"]
ScanMap = (
    Inexact[Tensor, "batch length d_state"]
    | Inexact[Tensor, "batch length _groups d_state"]
    | Inexact[Tensor, "d_inner d_state"]
)
StepDt = Float[Tensor, "batch d_inner"] | Float[Tensor, " d_inner"]
StepMap = Inexact[Tensor, "batch d_state"] | Inexact[Tensor, "_batch_or_1 _groups d_state"]
