"""The Triton kernels compile for sm_80 and sm_90, and the machine code is what the design promises.

No GPU is needed: Triton's wheel carries NVIDIA's assembler and disassembler.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

triton = pytest.importorskip("triton")

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
D_INNER, DT_RANK, LENGTH = 512, 32, 2**20
X, XZ = (LENGTH * D_INNER, D_INNER, 1), (2 * LENGTH * D_INNER, 2 * D_INNER, 1)

# A Mamba block in bfloat16: dtypes of pointers, strides, sizes; "i32" is a size that kernels do not know.
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
SCAN_KERNELS = {
    "states": "chunk_state_kernel",
    "chunk_scan": "chunk_scan_kernel",
    "outputs": "output_kernel",
    "forward_sweep": "forward_sweep_kernel",
    "reverse_sweep": "reverse_sweep_kernel",
    "sum_rows": "sum_rows_kernel",
}
POINTERS = {torch.bfloat16: "bf16", torch.float32: "fp32", torch.int64: "i64"}


class MachineCode(NamedTuple):
    """What the disassembler says of one kernel."""

    registers: int
    loop: Counter[str]
    """How often each instruction (to its first dot) occurs in the longest of the innermost loops, or in all
    of a kernel that has none."""
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
    num_warps: int = 1,
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
    options = {"num_warps": num_warps, "enable_fp_fusion": True, "maxnreg": registers}
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
    whole = (0, len(instructions))
    start, end = max(innermost, key=lambda loop: loop[1] - loop[0], default=whole)
    body = instructions[start:end]

    def count(lines: list[str]) -> Counter[str]:
        return Counter(re.split(r"[.\s]", line)[0] for line in lines)

    exponentials = sum(line.startswith("MUFU.EX2 ") for line in body)
    return MachineCode(int(registers[1]), count(body), exponentials)


class Launch(NamedTuple):
    """One launch of a kernel, as `compile_kernel` takes it."""

    kernel: Any
    arguments: dict[str, Any]
    constants: dict[str, Any]
    options: dict[str, Any]

    @property
    def channels_per_lane(self) -> int:
        return self.constants["BLOCK_D"] // (32 * self.options["num_warps"])

    def compile(self, architecture: int) -> Any:
        return compile_kernel(self.kernel, self.arguments, self.constants, architecture, **self.options)


class Recorder:
    """In place of a kernel: launches are kept and not run."""

    def __init__(self, kernel: Any, launches: list[Launch]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*values: Any, maxnreg: int | None = None, num_warps: int, **named: Any) -> None:
            unspecialized = self.kernel.do_not_specialize or ()
            arguments = {
                name: "i32" if name in unspecialized else described(value)
                for name, value in zip(self.kernel.arg_names, values, strict=False)
            }
            constants = {name: value for name, value in named.items() if name in self.kernel.arg_names}
            options = {"registers": maxnreg, "num_warps": num_warps}
            self.launches.append(Launch(self.kernel, arguments, constants, options))

        return launch


def described(value: Any) -> Any:
    return f"*{POINTERS[value.dtype]}" if isinstance(value, torch.Tensor) else value


class Scan(NamedTuple):
    """A scan of a Mamba block in bfloat16, or one that uses all that a plain one does not."""

    d_state: int = 16
    n_groups: int = 1
    complex: bool = False
    """Complex A and B, and a complex C that is constant in time."""
    packed: bool = False
    reverse: bool = False


@cache
def scan_launches(scan: Scan) -> dict[str, Launch]:
    """Launches of one forward and backward pass at (1, 2^20, 512), by kernel; of several, the first."""
    from bioaudio_kernels.selective_scan import triton_launch
    from bioaudio_kernels.selective_scan.triton_config import choose_config
    from bioaudio_kernels.selective_scan.triton_scan import scan_backward, scan_forward

    def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    def single(*shape: int) -> torch.Tensor:
        return empty(*shape, dtype=torch.float32)

    parts = 2 if scan.complex else 1
    values = scan.d_state * parts
    x, z = empty(1, LENGTH, 2 * D_INNER).chunk(2, dim=2)
    rows = empty(1, LENGTH, DT_RANK + 2 * values * scan.n_groups)[..., DT_RANK:]
    B, C = (part.unflatten(2, (scan.n_groups, values)) for part in rows.chunk(2, dim=2))
    if scan.complex:
        B, C = B.float(), single(D_INNER, values)
    borders = empty(4, dtype=torch.int64) if scan.packed else None
    A, state = single(D_INNER, values), single(3 if scan.packed else 1, D_INNER, values)
    inputs = triton_launch.ScanInputs(
        x, empty(1, LENGTH, D_INNER), A, B, C, single(D_INNER), z, single(D_INNER), state, parts, True,
        scan.reverse,
    )  # fmt: skip
    config = choose_config(1, LENGTH, D_INNER, inputs.group_size, plain=not scan.complex)
    launches: list[Launch] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in SCAN_KERNELS.values():
            patch.setattr(triton_launch, name, Recorder(getattr(triton_launch, name), launches))
        y, final_state, states = scan_forward(inputs, borders, config)
        scan_backward(inputs, borders, states, y, final_state, config)
    by_name = {launch.kernel.__name__: launch for launch in reversed(launches)}
    return {short: by_name[name] for short, name in SCAN_KERNELS.items()}


@pytest.mark.parametrize(("name", "issue_slots"), [("states", 235), ("outputs", 345)])
def test_forward_is_bound_by_exponentials(name: str, issue_slots: int, tmp_path: Path) -> None:
    """No spill, shuffle or barrier in the loop over time, bare exp2, and room for 16 warps per SM.

    The 17 (19 with the gate) special-function instructions of a step and a channel of each lane take 8 cycles
    each, which the issue slots of all its instructions should not exceed by much. Counted as one of them is
    all of the branch that every eighth step takes.
    """
    launch = scan_launches(Scan())[name]
    code = disassemble(launch.compile(90), tmp_path)
    steps = launch.constants["UNROLL"]
    assert not code.traffic
    assert code.loop["SHFL"] == 0
    assert code.registers <= 128
    # 16 states, one for softplus, one for the gate.
    assert code.exponentials == launch.channels_per_lane * (17 if name == "states" else 18) * steps
    assert sum(code.loop.values()) / steps <= issue_slots


@pytest.mark.parametrize(("name", "issue_slots"), [("forward_sweep", 715), ("reverse_sweep", 640)])
def test_backward_reduces_over_channels_in_16_shuffles(name: str, issue_slots: int, tmp_path: Path) -> None:
    """No spill and no barrier; 16 sums over 64 channels take 16 shuffles, where a tree each would take 80."""
    code = disassemble(scan_launches(Scan())[name].compile(90), tmp_path)
    assert not code.traffic
    assert code.loop["SHFL"] == 16
    assert sum(code.loop.values()) <= issue_slots


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packed"])
@pytest.mark.parametrize(
    ("name", "element", "per_step", "registers"),
    [
        ("forward", "bf16", 70, 128),
        ("backward", "bf16", 135, 255),
        ("forward", "fp32", 44, 96),
        ("backward", "fp32", 80, 128),
    ],
)
def test_convolution_streams_through_registers(
    name: str, element: str, per_step: int, registers: int, packed: bool, architecture: int, tmp_path: Path
) -> None:
    """No spill, shuffle, barrier or 16-bit load, and few enough instructions to be bound by memory.

    At 1.7 GHz an H100 issues 900 G of them a second; at 2.8 TB/s a forward (backward) step of 128 channels in
    bf16 leaves time for 164 (246), one of 64 channels in fp32 as many.
    """
    from bioaudio_kernels.causal_conv1d import triton_backward, triton_forward
    from bioaudio_kernels.causal_conv1d.triton_config import choose_config

    kernel = triton_forward.forward_kernel if name == "forward" else triton_backward.backward_kernel
    size = 2 if element == "bf16" else 4
    config = choose_config(1, LENGTH, D_INNER, 4, size, backward=name == "backward")
    constants = CONV_CONSTANTS | {"BLOCK": config.block, "UNROLL": config.unroll, "PACK": 4 // size}
    arguments = {
        k: v.replace("bf16", element) if isinstance(v, str) else v for k, v in CONV_ARGUMENTS.items()
    } | {"p_cu": "*i32" if packed else None}
    compiled = compile_kernel(kernel, arguments, constants, architecture)
    code = disassemble(compiled, tmp_path)
    assert not code.traffic
    assert code.loop["SHFL"] == 0
    assert code.registers <= registers
    assert sum(code.loop.values()) / config.unroll <= per_step
    assert "ld.global.b16" not in compiled.asm["ptx"]


def test_convolution_step_compiles_without_spills(tmp_path: Path) -> None:
    from bioaudio_kernels.causal_conv1d.triton_forward import step_kernel
    from bioaudio_kernels.causal_conv1d.triton_step import BLOCK

    constants = {"WIDTH": 4, "SILU": True, "BLOCK": BLOCK}
    arguments = CONV_ARGUMENTS | {"s_x": (2 * D_INNER, 1)}
    compiled = compile_kernel(step_kernel, arguments, constants, 90)
    assert not re.search(r"ld\.local|st\.local|shfl|bar\.sync", compiled.asm["ptx"])


@pytest.mark.parametrize("name", ["chunk_scan", "sum_rows"])
def test_kernels_between_the_sweeps_compile_without_spills(name: str, tmp_path: Path) -> None:
    code = disassemble(scan_launches(Scan())[name].compile(90), tmp_path)
    assert not code.traffic & {"LDL", "STL"}


@pytest.mark.parametrize("name", SCAN_KERNELS)
@pytest.mark.parametrize(
    "scan",
    [Scan(2, complex=True), Scan(4, n_groups=4, packed=True, reverse=True)],
    ids=["complex, constant C", "packed, reverse, groups"],
)
def test_every_form_of_the_scan_compiles_without_spills(scan: Scan, name: str, tmp_path: Path) -> None:
    """With few states, which compile in a fraction of the time."""
    code = disassemble(scan_launches(scan)[name].compile(90), tmp_path)
    assert not code.traffic & {"LDL", "STL"}


@pytest.mark.parametrize("name", SCAN_KERNELS)
def test_scan_compiles_for_sm_80(name: str, tmp_path: Path) -> None:
    code = disassemble(scan_launches(Scan(4))[name].compile(80), tmp_path)
    assert not code.traffic & {"LDL", "STL"}


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("name", ["forward", "backward"])
@pytest.mark.parametrize("width", [64, 256, 2048])
def test_norm_compiles_without_spills(name: str, width: int, architecture: int, tmp_path: Path) -> None:
    """And in few enough registers for 16 warps on a multiprocessor."""
    from bioaudio_kernels.add_rms_norm import triton_kernels, triton_op

    backward = name == "backward"
    elements = triton_op.BACKWARD_ELEMENTS if backward else triton_op.FORWARD_ELEMENTS
    config = triton_op.choose_config(width, elements)
    arguments = {
        **dict.fromkeys(("p_y", "p_normed", "p_d_normed", "p_d_y"), "*bf16"),
        **dict.fromkeys(("p_residual", "p_total", "p_weight", "p_rstd", "p_d_total"), "*fp32"),
        **dict.fromkeys(("p_d_residual", "p_d_weight"), "*fp32"),
        **dict.fromkeys(("rows", "steps"), "i32"),
        "width": width,
        "eps": "fp32",
    }
    kernel = triton_kernels.backward_kernel if backward else triton_kernels.forward_kernel
    compiled = compile_kernel(
        kernel,
        {argument: arguments[argument] for argument in kernel.arg_names if argument in arguments},
        {"ROWS": config.rows, "BLOCK": config.block},
        architecture,
        num_warps=config.num_warps,
    )
    code = disassemble(compiled, tmp_path)
    assert not code.traffic & {"LDL", "STL"}
    assert code.registers <= 128
