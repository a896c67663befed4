"""The Triton kernels compile for sm_80 and sm_90, and the machine code is what the design promises.

No GPU is needed: Triton's wheel carries NVIDIA's assembler and disassembler.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

pytest.importorskip("triton")

from machine_code import Launch, Recorder, compile_kernel, disassemble

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
    from bioaudio_kernels import triton_sums
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
        sums = triton_sums.sum_over_rows_kernel
        patch.setattr(triton_sums, sums.__name__, Recorder(sums, launches))
        y, final_state, states = scan_forward(inputs, borders, config)
        scan_backward(inputs, borders, states, y, final_state, config)
    by_name = {launch.kernel.__name__: launch for launch in reversed(launches)}
    return {short: by_name[name] for short, name in (SCAN_KERNELS | {"sums": sums.__name__}).items()}


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


@pytest.mark.parametrize(
    ("shape", "chunk"),
    [
        ((1, 2**20, 512), 1024),
        ((8, 8192, 1536), 256),
        ((32, 16384, 128), 512),
        ((64, 2048, 1024), 1024),
        ((1, 64, 16), 64),
    ],
)
def test_backward_convolution_fills_whole_waves(shape: tuple[int, int, int], chunk: int) -> None:
    """The best of the chunks that were timed (kernels/benchmarks/LOG.md), or one within 1 % of it."""
    from bioaudio_kernels.causal_conv1d.triton_config import choose_config

    assert choose_config(*shape, 4, 2, backward=True).chunk == chunk


def test_convolution_step_compiles_without_spills(tmp_path: Path) -> None:
    from bioaudio_kernels.causal_conv1d.triton_forward import step_kernel
    from bioaudio_kernels.causal_conv1d.triton_step import BLOCK

    constants = {"WIDTH": 4, "SILU": True, "BLOCK": BLOCK}
    arguments = CONV_ARGUMENTS | {"s_x": (2 * D_INNER, 1)}
    compiled = compile_kernel(step_kernel, arguments, constants, 90)
    assert not re.search(r"ld\.local|st\.local|shfl|bar\.sync", compiled.asm["ptx"])


def test_an_update_with_four_taps_together_moves_whole_words() -> None:
    """A channel's cache is one word to load and one to store, and none of it goes through shared memory."""
    from bioaudio_kernels.compat.triton_conv_update import FOUR_TAPS_BLOCK
    from bioaudio_kernels.compat.triton_conv_update_kernel import four_taps_kernel

    arguments = {f"p_{name}": "*bf16" for name in ("x", "state", "weight", "bias", "y")}
    arguments |= {"s_x": (D_INNER, 1, 1), "s_row": 4 * D_INNER, "s_bias": 1, "channels": D_INNER}
    arguments |= {"p_rows": None, "s_rows": 0}
    constants = {"SILU": True, "BLOCK": FOUR_TAPS_BLOCK}
    ptx = compile_kernel(four_taps_kernel, arguments, constants, 90).asm["ptx"]
    assert not re.search(r"\.local|\.shared|bar\.sync", ptx)
    assert len(re.findall(r"st\.global\.v2\.b32", ptx)) == FOUR_TAPS_BLOCK // 32


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_a_step_of_sixteen_states_needs_no_shared_memory(
    dtype: torch.dtype, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bioaudio_kernels.selective_scan import triton_step

    launches: list[Launch] = []
    monkeypatch.setattr(triton_step, "step_kernel", Recorder(triton_step.step_kernel, launches))
    rows, maps = torch.zeros(batch, 4096, dtype=torch.bfloat16), torch.zeros(batch, 16, dtype=torch.bfloat16)
    A = torch.zeros(4096, 16, dtype=dtype)
    triton_step.selective_scan_step_triton(
        rows, rows, A, maps, maps, torch.zeros(4096), rows, torch.zeros(4096), A.expand(batch, -1, -1).clone()
    )
    assert [launch.compile(90).metadata.shared for launch in launches] == [0]


@pytest.mark.parametrize("name", ["chunk_scan", "sum_rows", "sums"])
def test_kernels_beside_the_sweeps_compile_without_spills(name: str, tmp_path: Path) -> None:
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
@pytest.mark.parametrize("layer_norm", [False, True])
def test_norm_compiles_without_spills(
    layer_norm: bool, name: str, width: int, architecture: int, tmp_path: Path
) -> None:
    """And in few enough registers for 16 warps on a multiprocessor."""
    from bioaudio_kernels.add_norm import triton_kernels, triton_op

    backward = name == "backward"
    elements = triton_op.BACKWARD_ELEMENTS if backward else triton_op.FORWARD_ELEMENTS
    config = triton_op.choose_config(width, elements)
    arguments = {
        **dict.fromkeys(("p_y", "p_normed", "p_d_normed", "p_d_y"), "*bf16"),
        **dict.fromkeys(("p_residual", "p_total", "p_weight", "p_rstd", "p_d_total"), "*fp32"),
        **dict.fromkeys(("p_d_residual", "p_d_params"), "*fp32"),
        "p_bias": "*fp32" if layer_norm else None,
        **dict.fromkeys(("rows", "steps"), "i32"),
        "width": width,
        "eps": "fp32",
    }
    kernel = triton_kernels.backward_kernel if backward else triton_kernels.forward_kernel
    compiled = compile_kernel(
        kernel,
        {argument: arguments[argument] for argument in kernel.arg_names if argument in arguments},
        {"CENTRED": layer_norm, "ROWS": config.rows, "BLOCK": config.block},
        architecture,
        num_warps=config.num_warps,
    )
    code = disassemble(compiled, tmp_path)
    assert not code.traffic & {"LDL", "STL"}
    assert code.registers <= 128


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize(("vocab", "width"), [(16, 256), (256, 64)], ids=["DNA", "codes of 8 bits"])
def test_gradients_of_vectors_are_products_of_matrices(
    vocab: int, width: int, architecture: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without spills, on tensor cores."""
    from bioaudio_kernels.embedding import triton_op

    launches: list[Launch] = []
    monkeypatch.setattr(triton_op, "gradient_kernel", Recorder(triton_op.gradient_kernel, launches))
    monkeypatch.setattr(triton_op, "sum_over_rows", lambda sums: sums)
    dy = torch.empty(1, LENGTH, width, device="meta")
    triton_op._gradient(dy, torch.empty(1, LENGTH, dtype=torch.int64, device="meta"), vocab)
    compiled = launches[0].compile(architecture)
    assert not disassemble(compiled, tmp_path).traffic & {"LDL", "STL"}
    assert re.search(r"mma\.sync|wgmma\.mma_async", compiled.asm["ptx"])
