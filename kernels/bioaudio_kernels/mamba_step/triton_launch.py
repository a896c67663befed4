"""Launches of the Triton step: all of them work in memory that stays where it is, as CUDA graphs need."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from bioaudio_kernels.integers import ceil_div
from bioaudio_kernels.mamba_step.triton_config import (
    CHUNK,
    NUM_WARPS,
    OUTPUTS,
    SCANNED,
    TILE_WARPS,
    StepConfig,
    choose_step_config,
    outputs_of_a_program,
    rows_of_a_program,
    rows_of_a_tile,
    starts_early,
    takes_tiles,
)
from bioaudio_kernels.mamba_step.triton_head import head_kernel, linear_kernel
from bioaudio_kernels.mamba_step.triton_packing import PackedHead, PackedLinear, PackedStage
from bioaudio_kernels.mamba_step.triton_stage import narrow_kernel
from bioaudio_kernels.mamba_step.triton_tiles import begin_kernel, enter_tiles_kernel, project_kernel
from bioaudio_kernels.mamba_step.triton_wide import close_kernel, enter_kernel, leave_kernel


class Source(NamedTuple):
    """What enters a stage: the sum of x and more, or the embeddings of a token and of a label (-1: none)."""

    x: Float[Tensor, "rows D"] | None = None
    more: Float[Tensor, "rows D"] | None = None
    tokens: Int64[Tensor, " rows"] | None = None
    labels: Int64[Tensor, " rows"] | None = None
    embeddings: Float[Tensor, "vocab D"] | None = None
    classes: Float[Tensor, "n_classes D"] | None = None

    @property
    def arguments(self) -> tuple[Any, ...]:
        """As `first_x` takes them."""
        strides = [None if part is None else part.stride(0) for part in (self.x, self.more)]
        return self.x, strides[0], self.more, strides[1], *self[2:]


class StageMemory(NamedTuple):
    """The state of a stage, and room to work in."""

    conv: Float[Tensor, "layers rows d_conv-1 INNER"]
    ssm: Float[Tensor, "layers rows groups INNER K"]
    entered: Float[Tensor, "layers rows D"]
    """What entered each block in the last step."""
    parts: Float[Tensor, "rows_or_0 parts D"]
    sel_parts: Float[Tensor, "rows parts SEL"]
    heard: Float[Tensor, "rows INNER"]
    z: Float[Tensor, "rows INNER"]


def stage_memory(stage: PackedStage, rows: int) -> StageMemory:
    """The state before the first step."""
    s, device = stage.sizes, stage.weights.device
    config = choose_step_config(rows, s.D, s.INNER)
    parts = s.INNER // config.channels

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, device=device)

    return StageMemory(
        zeros(s.layers, rows, s.WIDTH - 1, s.INNER),
        zeros(s.layers, rows, s.N // s.K_N, s.INNER, s.K_N),
        zeros(s.layers, rows, s.D),
        zeros(rows if config.form == "wide" else 0, parts, s.D),
        zeros(rows, parts, s.SEL),
        zeros(rows, s.INNER),
        zeros(rows, s.INNER),
    )


def step_stage_triton(
    stage: PackedStage,
    memory: StageMemory,
    source: Source,
    out: Float[Tensor, "rows D"],
    skips: Float[Tensor, "layers rows D"] | None = None,
    residual: bool = False,
) -> None:
    """One time step: out = block after block of what enters, each x + block(norm(x)); `memory` moves on.

    Args:
        stage: the blocks.
        memory: of `stage_memory`, or filled from a state.
        source: what enters.
        out: the result, rows apart as they may be.
        skips: added to the results of the blocks, the last of them first; None adds nothing.
        residual: what entered the stage is added to the result too.
    """
    s = stage.sizes
    rows = memory.entered.shape[1]
    config = choose_step_config(rows, s.D, s.INNER)
    given, parts = source.arguments, s.INNER // config.channels
    options = _early(out.device, config.rows)
    # Stages on the way down from another level, and the centre, follow launches on another stream.
    first = options if source.tokens is not None or skips is not None else {"EARLY": options["EARLY"]}
    with torch.cuda.device_of(out):
        if config.form == "narrow":
            narrow_kernel[(ceil_div(rows, config.rows),)](
                given, skips, memory.entered, out, out.stride(0), stage.weights, memory.conv, memory.ssm,
                rows, s.layers, s.width, stage.eps, **s.constants, ROWS=config.rows, RESIDUAL=residual,
                num_warps=NUM_WARPS, **first,
            )  # fmt: skip
            return
        if config.form == "tiles":
            _step_by_tiles(stage, memory, config, source, out, skips, residual)
            return
        for layer in range(s.layers):
            enter_kernel[(rows, parts)](
                given, skips, memory.entered, memory.parts, memory.sel_parts, memory.heard, memory.z,
                stage.weights, memory.conv, rows, layer, s.layers, s.width, stage.eps, **s.constants,
                CHANNELS=config.channels, num_warps=NUM_WARPS, **(options if layer else first),
            )  # fmt: skip
            leave_kernel[(rows, parts)](
                memory.sel_parts, memory.heard, memory.z, memory.parts, stage.weights, memory.ssm, rows,
                layer, **s.constants, SEL_PARTS=parts, CHANNELS=config.channels, num_warps=NUM_WARPS,
                **options,
            )  # fmt: skip
        close_kernel[(rows,)](
            given, skips, memory.entered, memory.parts, out, out.stride(0), rows, s.layers,
            PARTS=parts, D=s.D, RESIDUAL=residual, num_warps=4, **options,
        )  # fmt: skip


def _step_by_tiles(
    stage: PackedStage,
    memory: StageMemory,
    config: StepConfig,
    source: Source,
    out: Tensor,
    skips: Tensor | None,
    residual: bool,
) -> None:
    s, entered, z = stage.sizes, memory.entered, memory.z
    rows, parts, scanned = len(z), s.INNER // config.channels, min(s.INNER, SCANNED)
    begin_kernel[(rows,)](source.arguments, entered, D=s.D, num_warps=TILE_WARPS)
    for layer in range(s.layers):
        enter_tiles_kernel[(parts, ceil_div(rows, config.rows))](
            entered, memory.sel_parts, memory.heard, z, stage.weights, memory.conv, rows, layer, s.width,
            stage.eps, **s.constants, ROWS=config.rows, CHANNELS=config.channels, CHUNK=min(CHUNK, s.D),
            num_warps=TILE_WARPS,
        )  # fmt: skip
        leave_kernel[(rows, s.INNER // scanned)](
            memory.sel_parts, memory.heard, z, None, stage.weights, memory.ssm, rows, layer, **s.constants,
            SEL_PARTS=parts, CHANNELS=scanned, EARLY=False, num_warps=TILE_WARPS,
        )  # fmt: skip
        last = layer == s.layers - 1
        addends = [entered[layer]]
        if skips is not None:
            addends.append(skips[s.layers - 1 - layer])
        if last and residual:
            addends.append(entered[0])
        # The weights of a block end with those of out_proj.
        weight = stage.weights[layer, -s.INNER * s.D :]
        _project(z, weight, s.K_OUT, addends, out if last else entered[layer + 1])


def linear_triton(
    x: Float[Tensor, "rows inputs"], layer: PackedLinear, y: Float[Tensor, "rows outputs"]
) -> None:
    """y = weight x + bias; all contiguous."""
    (rows, inputs), outputs, K = x.shape, y.shape[1], layer.weight.shape[2]
    block = outputs_of_a_program(inputs, outputs)
    each = rows_of_a_program(rows * (outputs // block))
    with torch.cuda.device_of(x):
        if takes_tiles(rows, outputs):
            _project(x, layer.weight, K, [layer.bias.expand(rows, -1)], y)
        else:
            linear_kernel[(outputs // block, ceil_div(rows, each))](
                x, *layer, y, rows, ROWS=each, INPUTS=inputs, OUTPUTS=outputs, BLOCK=block, K=K,
                num_warps=NUM_WARPS,
            )  # fmt: skip


def _project(x: Tensor, weight: Tensor, K: int, addends: list[Tensor], y: Tensor) -> None:
    """y = weight x and all addends, by tiles of rows; the rows of addends and y lie apart as they may."""
    (rows, inputs), outputs = x.shape, y.shape[1]
    block = min(OUTPUTS, outputs)
    each = rows_of_a_tile(rows * (outputs // block))
    project_kernel[(outputs // block, ceil_div(rows, each))](
        x, weight, tuple(addends), tuple(part.stride(0) for part in addends), y, y.stride(0), rows,
        ROWS=each, BLOCK=block, CHUNK=min(CHUNK, inputs), INPUTS=inputs, OUTPUTS=outputs, K=K,
        num_warps=TILE_WARPS,
    )  # fmt: skip


def head_triton(head: PackedHead, x: Float[Tensor, "rows D"]) -> Float[Tensor, "rows vocab"]:
    """Logits, filled up."""
    logits = x.new_empty(len(x), len(head.linear.bias))
    _head(head, x, logits, None, None, None, 0.0, 1.0)
    return logits


def draw_triton(
    head: PackedHead,
    x: Float[Tensor, "rows D"],
    number: Float[Tensor, " rows"],
    temperature: float,
    largest: float,
) -> tuple[Int64[Tensor, " rows"], Float[Tensor, " rows"]]:
    """A code for each row, and its log-probability at temperature 1.

    The code is the first possible one whose cumulated probability passes the number, which is taken as
    `largest` at most; at temperature 0 the likeliest.
    """
    codes, log_p = torch.empty(len(x), dtype=torch.long, device=x.device), x.new_empty(len(x))
    _head(head, x, None, number, codes, log_p, temperature, largest)
    return codes, log_p


def _head(
    head: PackedHead,
    x: Tensor,
    logits: Tensor | None,
    number: Tensor | None,
    codes: Tensor | None,
    log_p: Tensor | None,
    temperature: float,
    largest: float,
) -> None:
    rows, D = x.shape
    each = rows_of_a_program(rows)
    inverse = 1 / temperature if temperature else 1.0
    with torch.cuda.device_of(x):
        head_kernel[(ceil_div(rows, each),)](
            x, *head.linear, logits, number, None if number is None else number.stride(0), codes, log_p,
            rows, head.width, head.eps, largest, inverse, ROWS=each, D=D, VOCAB=len(head.linear.bias),
            K=head.linear.weight.shape[2], GREEDY=temperature == 0,
            num_warps=NUM_WARPS, **_early(x.device, each),
        )  # fmt: skip


def _early(device: torch.device, rows: int) -> dict[str, bool]:
    """Options of a launch whose programs have so many rows."""
    early = rows == 1 and starts_early(device)
    return {"EARLY": True, "launch_pdl": True} if early else {"EARLY": False}
