"""One time step of a stack of Mamba blocks, compiled as a whole: for sampling.

Called operation by operation, a step of a small block spends nearly all of its time between operations. This
is the step on a CPU, for a few sequences; that on a GPU is `bioaudio_kernels.mamba_step.triton_launch`, which
needs Triton.
"""

from bioaudio_kernels.mamba_step.packing import StageSizes, pack_stage, panels
from bioaudio_kernels.mamba_step.stage import step_head, step_stage

__all__ = ["StageSizes", "pack_stage", "panels", "step_head", "step_stage"]
