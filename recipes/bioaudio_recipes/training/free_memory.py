"""How much memory a process may still take."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def free_bytes(device: torch.device) -> int:
    """On a GPU, what is free or held unused by torch; else what the machine, or a container, has left."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return min(_free_on_machine(), free_in_container())


def _free_on_machine() -> int:
    """As Linux estimates it; elsewhere half of all memory."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def free_in_container(group: Path = Path("/sys/fs/cgroup")) -> int:
    """What is left below the limit of this control group (version 2); 2^63 if it has none."""
    try:
        limit, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return max(0, int(limit) - int(used))
    except (OSError, ValueError):  # no such group, or its limit is the word "max"
        return 2**63
