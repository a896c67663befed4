"""The Triton kernels compile for sm_80 and sm_90, and the machine code is what the design promises.

No GPU is needed: Triton's wheel carries NVIDIA's assembler and disassembler.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

triton = pytest.importorskip("triton")

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
D_INNER, D_STATE, DT_RANK, LENGTH = 512, 16, 32, 2**20
ROW = DT_RANK + 2 * D_STATE
X, XZ, BC = (LENGTH * D_INNER, D_INNER, 1), (2 * LENGTH * D_INNER, 2 * D_INNER, 1), (LENGTH * ROW, ROW, 1)

# A Mamba block in bfloat16: dtypes of pointers, strides, sizes; "i32" is a size that kernels do not know.
SCAN_ARGUMENTS: dict[str, Any] = {
    **dict.fromkeys(("p_x", "p_dt", "p_B", "p_C", "p_z", "p_dy", "p_y", "p_dz", "p_dx", "p_ddt"), "*bf16"),
    **dict.fromkeys(
        ("p_A", "p_D", "p_bias", "p_h", "p_final", "p_states", "p_sigma", "p_start", "p_end"), "*fp32"
    ),
    **dict.fromkeys(("p_r", "p_dA", "p_dB", "p_dC", "p_dD", "p_dbias", "p_dh", "p_adjoint", "p_S"), "*fp32"),
    **dict.fromkeys(("p_sum", "p_sum_x", "p_sum_dt"), None),
    **dict.fromkeys(("i_n", "n_chunks", "chunk", "length", "chunk_0", "batch"), "i32"),
    **dict.fromkeys(("s_x", "s_dt", "s_dy"), X),
    **dict.fromkeys(("s_B", "s_C"), BC),
    **dict.fromkeys(("s_start", "s_end"), (D_INNER * D_STATE, 1, D_INNER)),
    "s_z": XZ,
    "s_A": (D_STATE, 1),
    "s_h": (LENGTH // 512 * D_STATE * D_INNER, D_STATE * D_INNER, D_INNER, 1),
    "d_inner": D_INNER,
}
SCAN_CONSTANTS = {
    "N": D_STATE, "NB": 16, "COUNT": 16, "SUB": 64, "PACK": 4, "ROWS": 16, "REVERSE": True,
    "SOFTPLUS": True, "EVEN_D": True, "WIDE": False, "FIRST": True, "LAST": True,
}  # fmt: skip
CONV_ARGUMENTS: dict[str, Any] = {
    **dict.fromkeys(("p_x", "p_dy", "p_y", "p_dx", "p_final", "p_state", "p_new_state"), "*bf16"),
    **dict.fromkeys(("p_initial", "p_d_initial", "p_d_final"), "*bf16"),
    **dict.fromkeys(("p_weight", "p_bias", "p_d_params"), "*fp32"),
    **dict.fromkeys(("s_initial", "s_d_final", "s_state"), (3 * D_INNER, D_INNER, 1)),
    **dict.fromkeys(("length", "n_sequences", "chunk"), "i32"),
    "s_dy": X,
    "s_x": XZ,
    "s_weight": (4, 1),
    "channels": D_INNER,
}
CONV_CONSTANTS = {"WIDTH": 4, "SILU": True, "EVEN": True, "PACK": 2}


class MachineCode(NamedTuple):
    """What the disassembler says of one kernel."""

    registers: int
    loop: Counter[str]
    """How often each instruction (to its first dot) occurs in the longest of the innermost loops."""
    exponentials: int
    """Bare exp2 instructions in that loop."""

    @property
    def traffic(self) -> set[str]:
        """What the loop does that it should not: spills, barriers, shared memory."""
        return {"LDL", "STL", "BAR", "LDS", "STS"} & self.loop.keys()


def compile_kernel(
    kernel: Any,
    arguments: dict[str, Any],
    constants: dict[str, Any],
    architecture: int,
    registers: int | None = None,
) -> Any:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature: dict[str, Any] = {}
    values: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}

    def describe(value: Any, path: tuple[int, ...]) -> Any:
        if isinstance(value, tuple):
            return tuple(describe(item, (*path, i)) for i, item in enumerate(value))
        if value is None or value == 1:
            values[path] = value
            return "constexpr"
        if isinstance(value, str):
            if value.startswith("*"):
                attributes[path] = [["tt.divisibility", 16]]
            return value
        if value % 16 == 0:
            attributes[path] = [["tt.divisibility", 16]]
        return "i32" if value < 2**31 else "i64"

    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name], values[(i,)] = "constexpr", constants[name]
        else:
            signature[name] = describe(arguments[name], (i,))
    options = {"num_warps": 1, "enable_fp_fusion": True, "maxnreg": registers}
    source = ASTSource(kernel, signature, values, attributes)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def disassemble(compiled: Any, folder: Path) -> MachineCode:
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])

    def tool(*command: str) -> str:
        return subprocess.run(
            [TOOLS / command[0], *command[1:], cubin], capture_output=True, text=True, check=True
        ).stdout

    registers = re.search(r"REG:(\d+)", tool("cuobjdump", "--dump-resource-usage"))
    assert registers is not None
    instructions, labels = [], {}
    for line in tool("nvdisasm", "-c").splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        elif instruction := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?(.*?)\s*;", line):
            instructions.append(instruction[1])
    loops = []
    for end, instruction in enumerate(instructions):
        branch = re.match(r"BRA.*`\((\.L_x_\d+)\)", instruction)
        if branch and labels[branch[1]] < end:
            loops.append((labels[branch[1]], end + 1))
    innermost = [a for a in loops if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    start, end = max(innermost, key=lambda loop: loop[1] - loop[0])
    body = instructions[start:end]

    def count(lines: list[str]) -> Counter[str]:
        return Counter(re.split(r"[.\s]", line)[0] for line in lines)

    exponentials = sum(line.startswith("MUFU.EX2 ") for line in body)
    return MachineCode(int(registers[1]), count(body), exponentials)


@cache
def scan_kernels() -> dict[str, tuple[Any, dict[str, int]]]:
    """Every scan kernel with the constants that the built-in configuration gives it at (1, 2^20, 512)."""
    from bioaudio_kernels.selective_scan import triton_forward, triton_forward_sweep, triton_reverse_sweep
    from bioaudio_kernels.selective_scan.triton_config import choose_config

    config = choose_config(1, LENGTH, D_INNER)
    return {
        "states": (
            triton_forward.chunk_state_kernel,
            {"BLOCK_D": config.state_block, "UNROLL": config.state_unroll},
        ),
        "scan": (triton_forward.chunk_scan_kernel, {"BLOCK_D": 32}),
        "outputs": (
            triton_forward.output_kernel,
            {"BLOCK_D": config.output_block, "UNROLL": config.output_unroll},
        ),
        "forward_sweep": (triton_forward_sweep.forward_sweep_kernel, {"BLOCK_D": config.forward_block}),
        "reverse_sweep": (triton_reverse_sweep.reverse_sweep_kernel, {"BLOCK_D": config.reverse_block}),
    }


def scan_code(name: str, architecture: int, folder: Path) -> tuple[MachineCode, int]:
    """The machine code of a scan kernel and the number of steps in its loop."""
    kernel, constants = scan_kernels()[name]
    constants = {k: v for k, v in (SCAN_CONSTANTS | constants).items() if k in kernel.arg_names}
    code = disassemble(compile_kernel(kernel, SCAN_ARGUMENTS, constants, architecture), folder)
    return code, constants.get("UNROLL", 1)


@pytest.mark.parametrize(("name", "registers", "issue_slots"), [("states", 128, 215), ("outputs", 128, 310)])
def test_forward_is_bound_by_exponentials(
    name: str, registers: int, issue_slots: int, tmp_path: Path
) -> None:
    """No spill, shuffle or barrier in the loop over time, bare exp2, and room for 16 warps per SM.

    The 34 (38 with the gate) special-function instructions of a step take 8 cycles each: 272 (304) cycles,
    which the issue slots of all its instructions should not exceed.
    """
    code, steps = scan_code(name, 90, tmp_path)
    assert not code.traffic
    assert code.loop["SHFL"] == 0
    assert code.registers <= registers
    # 64 channels are two a lane: 16 states, one for softplus, one for the gate.
    assert code.exponentials == 2 * (16 + (1 if name == "states" else 2)) * steps
    assert sum(code.loop.values()) / steps <= issue_slots


@pytest.mark.parametrize(("name", "issue_slots"), [("forward_sweep", 670), ("reverse_sweep", 560)])
def test_backward_reduces_over_channels_in_16_shuffles(name: str, issue_slots: int, tmp_path: Path) -> None:
    """No spill and no barrier; 16 sums over 64 channels take 16 shuffles, where a tree each would take 80."""
    code, steps = scan_code(name, 90, tmp_path)
    assert not code.traffic
    assert code.loop["SHFL"] == 16 * steps
    assert sum(code.loop.values()) / steps <= issue_slots


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packed"])
@pytest.mark.parametrize(
    ("name", "element", "per_step"),
    [("forward", "bf16", 70), ("backward", "bf16", 135), ("forward", "fp32", 44), ("backward", "fp32", 80)],
)
def test_convolution_streams_through_registers(
    name: str, element: str, per_step: int, packed: bool, architecture: int, tmp_path: Path
) -> None:
    """No spill, shuffle, barrier or 16-bit load, and few enough instructions to be bound by memory.

    At 1.7 GHz an H100 issues 900 G of them a second; at 2.8 TB/s a forward (backward) step of 128 channels in
    bf16 leaves time for 164 (246), one of 64 channels in fp32 as many.
    """
    from bioaudio_kernels.causal_conv1d import triton_backward, triton_forward
    from bioaudio_kernels.causal_conv1d.triton_config import choose_config

    kernel = triton_forward.forward_kernel if name == "forward" else triton_backward.backward_kernel
    size = 2 if element == "bf16" else 4
    config = choose_config(1, LENGTH, D_INNER, 4, size)
    constants = CONV_CONSTANTS | {"BLOCK": config.block, "UNROLL": config.unroll, "PACK": 4 // size}
    arguments = {
        k: v.replace("bf16", element) if isinstance(v, str) else v for k, v in CONV_ARGUMENTS.items()
    } | {"p_cu": "*i32" if packed else None}
    registers = config.registers if name == "backward" else None
    compiled = compile_kernel(kernel, arguments, constants, architecture, registers)
    code = disassemble(compiled, tmp_path)
    assert not code.traffic
    assert code.loop["SHFL"] == 0
    assert code.registers <= 168
    assert sum(code.loop.values()) / config.unroll <= per_step
    assert "ld.global.b16" not in compiled.asm["ptx"]


def test_convolution_step_compiles_without_spills(tmp_path: Path) -> None:
    from bioaudio_kernels.causal_conv1d.triton_forward import step_kernel
    from bioaudio_kernels.causal_conv1d.triton_step import BLOCK

    constants = {"WIDTH": 4, "SILU": True, "BLOCK": BLOCK}
    arguments = CONV_ARGUMENTS | {"s_x": (2 * D_INNER, 1)}
    compiled = compile_kernel(step_kernel, arguments, constants, 90)
    assert not re.search(r"ld\.local|st\.local|shfl|bar\.sync", compiled.asm["ptx"])


def test_scan_over_chunks_compiles_without_spills(tmp_path: Path) -> None:
    code, _ = scan_code("scan", 90, tmp_path)
    assert not code.traffic


@pytest.mark.parametrize("name", ["states", "scan", "outputs", "forward_sweep", "reverse_sweep"])
def test_scan_compiles_for_sm_80(name: str, tmp_path: Path) -> None:
    """With four states, which compiles in a quarter of the time."""
    kernel, constants = scan_kernels()[name]
    constants = SCAN_CONSTANTS | constants | {"N": 4, "NB": 4, "COUNT": 4, "UNROLL": 1}
    constants = {k: v for k, v in constants.items() if k in kernel.arg_names}
    assert not disassemble(compile_kernel(kernel, SCAN_ARGUMENTS, constants, 80), tmp_path).traffic
