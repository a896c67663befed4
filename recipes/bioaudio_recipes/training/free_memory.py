"""How much memory a process may still take."""

from __future__ import annotations

import os
from contextlib import suppress
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
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def free_in_container(mount: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """What is left below the limits of this process's control groups, of version 1 or 2; 2^63 without any.

    Args:
        mount: where the groups lie.
        own: names the process's; those around them count too.
    """
    left = [2**63]
    for line in ("0::/", *_lines(own)):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit, used = mount, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root, limit, used = mount / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        inner = root / path.lstrip("/")  # not there if the container shows its own group as the root
        for group in (inner, *inner.parents):
            with suppress(OSError, ValueError):  # no such group, or its limit is the word "max"
                left.append(int((group / limit).read_text()) - int((group / used).read_text()))
            if group == root:
                break
    return max(0, min(left))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
