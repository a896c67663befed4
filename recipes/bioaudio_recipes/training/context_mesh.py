"""The mesh of a run on several devices: data parallel one way, one sequence over several the other."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from bioaudio_mamba import ContextGroup


def make_context_group(context: int, device: torch.device, timeout: timedelta) -> ContextGroup | None:
    """This process in a mesh of data x context over all processes; None if each has sequences of its own.

    Neighbouring ranks share a sequence, so that they are on one host where possible. To be called by all
    processes, once they are connected.

    Args:
        context: processes that share one sequence; divides their number.
        device: of this process.
        timeout: how long a process waits for the others.
    """
    if context == 1:
        return None
    shape = (dist.get_world_size() // context, context)
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=("data", "context"))
    group = ContextGroup.of(mesh["context"])
    group.group._get_backend(torch.device(device.type))._set_default_timeout(timeout)
    return group
