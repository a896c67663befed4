"""Triton kernels compiled for a GPU that need not be there, and what the disassembler says of them.

Triton's wheel carries NVIDIA's assembler and disassembler.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
POINTERS = {torch.bfloat16: "bf16", torch.float32: "fp32", torch.int64: "i64"}


class MachineCode(NamedTuple):
    """What the disassembler says of one kernel."""

    registers: int
    stack: int
    """Bytes of a thread in local memory: spills, inside loops or not."""
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

    usage = re.search(r"REG:(\d+) STACK:(\d+)", tool("cuobjdump", "--dump-resource-usage"))
    assert usage is not None
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
    return MachineCode(int(usage[1]), int(usage[2]), count(body), exponentials)


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
    """A launch's argument as `compile_kernel` takes it; numbers that are not whole are fp32."""
    if isinstance(value, tuple):
        return tuple(map(described, value))
    if isinstance(value, torch.Tensor):
        return f"*{POINTERS[value.dtype]}"
    return "fp32" if isinstance(value, float) else value
