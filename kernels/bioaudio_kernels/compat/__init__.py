"""mamba_ssm's and causal_conv1d's functions on our kernels: change one import, and nothing else.

    from bioaudio_kernels.compat import selective_scan_fn, mamba_inner_fn, selective_state_update
    from bioaudio_kernels.compat import causal_conv1d_fn, causal_conv1d_update

Names, arguments, layouts (batch, channels, length) and results are theirs (mamba_ssm 2.3, causal_conv1d 1.7),
on every backend, the CPU included. Tensors are read through transposed views, not copied. What theirs cannot
do, these can: D and dt_bias may be missing everywhere, the last state of a scan has a gradient, any width and
layout, float64, and nothing depends on the order of atomic additions.

transformers (5.23) looks for these functions where its Mamba models are first imported, as attributes of
modules named mamba_ssm and causal_conv1d. Before that:

    import sys
    from bioaudio_kernels import compat

    sys.modules["mamba_ssm"] = sys.modules["causal_conv1d"] = compat

    from transformers import MambaForCausalLM
"""

from bioaudio_kernels.compat.conv import causal_conv1d_fn
from bioaudio_kernels.compat.conv_update import causal_conv1d_update
from bioaudio_kernels.compat.mamba_inner import mamba_inner_fn
from bioaudio_kernels.compat.scan import selective_scan_fn
from bioaudio_kernels.compat.state_update import selective_state_update

__all__ = [
    "causal_conv1d_fn",
    "causal_conv1d_update",
    "mamba_inner_fn",
    "selective_scan_fn",
    "selective_state_update",
]
