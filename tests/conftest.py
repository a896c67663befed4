"""What every test stands on: checked annotations, a thread count that fits, and random numbers of its own."""

from __future__ import annotations

import os

# Workers of pytest-xdist share the cores: more threads than cores would wait for each other.
THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))  # for the processes that tests start
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the `bioaudio` command does

from jaxtyping import install_import_hook

install_import_hook(["bioaudio_kernels", "bioaudio_mamba"], "beartype.beartype")

import pytest
import torch
from hypothesis import settings

settings.register_profile("shared machine", deadline=None)  # a busy neighbour must not fail a claim
settings.load_profile("shared machine")


@pytest.fixture(autouse=True)
def _threads() -> None:
    """Each test starts with the same number of threads, whatever the one before it set."""
    torch.set_num_threads(THREADS)


@pytest.fixture
def rng() -> torch.Generator:
    """A seeded CPU generator, so that no test depends on the global random state."""
    return torch.Generator().manual_seed(0)
