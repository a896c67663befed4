"""The Triton kernels on the CPU: their test files run again in a process where Triton interprets kernels.

Triton decides when it is imported, so this cannot be a fixture.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


@pytest.mark.parametrize(
    "names",
    [
        "test_triton_scan.py",
        "test_triton_conv.py",
        "test_triton_lti.py",
        "test_triton_step.py test_scan_across_ranks.py test_triton_norm.py test_triton_sums.py "
        "test_triton_embedding.py",
        "test_compat_conv_update.py test_triton_mamba_step.py ../recipes/test_fused_network.py",
    ],
)
def test_kernels_hold_their_claims_in_the_interpreter(names: str) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        *(str(Path(__file__).parent / name) for name in names.split()),
    ]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    for variable in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_ADDOPTS"):
        environment.pop(variable, None)
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
