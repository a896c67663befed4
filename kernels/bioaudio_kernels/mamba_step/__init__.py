"""One time step of a stack of Mamba blocks on a CPU, compiled as a whole: for sampling a few sequences.

Called operation by operation, a step of a small block spends nearly all of its time between operations.
"""

from bioaudio_kernels.mamba_step.packing import StageSizes, pack_stage, panels
from bioaudio_kernels.mamba_step.stage import step_head, step_stage

__all__ = ["StageSizes", "pack_stage", "panels", "step_head", "step_stage"]
