"""Shape and type annotations of our packages are checked at run time in every test of the suite."""

from __future__ import annotations


from jaxtyping import install_import_hook

install_import_hook(["bioaudio_kernels", "bioaudio_mamba"], "beartype.beartype")

import pytest
import torch
from hypothesis import settings

settings.register_profile("shared machine", deadline=None)  # a busy neighbour must not fail a claim
settings.load_profile("shared machine")


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    """Tests run on small machines: more threads than cores only add noise."""
    torch.set_num_threads(2)


@pytest.fixture
def rng() -> torch.Generator:
    """A seeded CPU generator, so that no test depends on the global random state."""
    return torch.Generator().manual_seed(0)
