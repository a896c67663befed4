"""Scans, convolutions, norms, lookups: one op a folder, with a reference, a fast CPU path and Triton."""

from bioaudio_kernels.add_norm import add_layer_norm, add_rms_norm
from bioaudio_kernels.backend import BACKENDS, Backend, available_backends, resolve_backend
from bioaudio_kernels.causal_conv1d import causal_conv1d, causal_conv1d_step
from bioaudio_kernels.embedding import embedding
from bioaudio_kernels.lti_scan import discretize_bilinear, discretize_zoh, lti_scan, lti_step
from bioaudio_kernels.packed import cut_cu_seqlens
from bioaudio_kernels.ranks import Ranks
from bioaudio_kernels.selective_scan import selective_scan, selective_scan_step

__all__ = [
    "BACKENDS",
    "Backend",
    "Ranks",
    "add_layer_norm",
    "add_rms_norm",
    "available_backends",
    "causal_conv1d",
    "causal_conv1d_step",
    "cut_cu_seqlens",
    "discretize_bilinear",
    "discretize_zoh",
    "embedding",
    "lti_scan",
    "lti_step",
    "resolve_backend",
    "selective_scan",
    "selective_scan_step",
]
