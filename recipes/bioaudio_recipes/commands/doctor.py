"""`bioaudio doctor`: what this machine offers, which backends run, and how to get what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import torch
from bioaudio_kernels import available_backends

REQUIRED = ("torch", "triton", "numba", "numpy", "lightning", "safetensors", "soundfile", "torchaudio")
OPTIONAL = {
    "mambapy": "a peer in `bioaudio bench`; pip install 'bioaudio-mamba[bench]'",
    "pyfaidx": "a peer in `bioaudio bench`; pip install 'bioaudio-mamba[bench]'",
    "mamba_ssm": "a peer in `bioaudio bench` on a GPU; pip install mamba-ssm (it compiles CUDA code)",
    "transformers": "reads and writes the same checkpoints; pip install transformers",
}
BACKENDS = {
    "reference": "any device, slow, exact to float64",
    "cpu": "CPU, compiled by numba",
    "triton": "CUDA GPU",
}


def doctor() -> str:
    """Say what this machine offers: versions, cores, memory, GPUs, backends and optional packages."""
    sections = {
        "Software": {
            "bioaudio-mamba": _version("bioaudio-mamba") or "not installed: run from its source tree",
            "Python": f"{platform.python_version()} on {platform.platform()}",
            **{name: _version(name) or "not installed" for name in REQUIRED},
        },
        "Machine": {
            "CPU": f"{_usable_cores()} of {os.cpu_count()} cores usable",
            "Memory": _memory(),
            **_gpus(),
        },
        "Backends": {
            name: _backend(BACKENDS.get(name, ""), reason) for name, reason in available_backends().items()
        },
        "Optional packages": {
            name: _version(name.replace("_", "-")) or f"not installed: {purpose}"
            for name, purpose in OPTIONAL.items()
        },
    }
    width = max(len(name) for rows in sections.values() for name in rows)
    lines = []
    for title, rows in sections.items():
        lines += ["", title, *(f"  {name:<{width}}  {value}" for name, value in rows.items())]
    return "\n".join(lines[1:])


def _backend(purpose: str, reason: str | None) -> str:
    return f"yes ({purpose})" if reason is None else f"no: {reason} ({purpose})"


def _gpus() -> dict[str, str]:
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = (
            f"torch is built for CUDA {built} but sees no device" if built else "torch is built without CUDA"
        )
        return {"GPU": f"none: {why}"}
    gpus = {}
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        memory = f"{device.total_memory / 2**30:.1f} GiB"
        gpus[f"GPU {index}"] = f"{device.name}, {memory}, compute capability {device.major}.{device.minor}"
    return gpus


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> str:
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return "unknown on this system"
    page = os.sysconf("SC_PAGE_SIZE")
    total = f"{page * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    if "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return total
    return f"{total}, {page * os.sysconf('SC_AVPHYS_PAGES') / 2**30:.1f} GiB free"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
