"""One sequence over several GPUs: whether it is right, and how much faster it is.

    torchrun --nproc-per-node 4 kernels/benchmarks/context_gpu.py --out DIR

First, at small sizes, the ranks together against each rank alone: logits, states, all gradients, unequal
shards, packed sequences. Then the time of a training step of the 7 M-parameter model (bfloat16, AdamW,
next-token loss) on 1, 2, 4 ... GPUs: one sequence of `--length` tokens, read in chunks of `--chunk` tokens a
GPU as exact time-chunked training reads it (forwards for the states between chunks, then backwards chunk by
chunk), and ordinary data parallelism with a sequence of `--data-length` tokens on each. Prints tables; writes
DIR/context_gpu.json. `--device cpu` runs it all on gloo, to try it out with small sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from bioaudio_kernels import cut_cu_seqlens
from torch import Tensor
from torch.nn import functional

from bioaudio_mamba import BlockState, CausalLM, ContextGroup, MambaConfig, ModelState, shard_of
from bioaudio_mamba.presets import mamba_dna_7m

RTOL = 1e-4
"""Of gradients in float32, as in the tests."""


def main() -> None:
    arguments = parse()
    cuda = arguments.device == "cuda"
    local = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(minutes=5))
    rank, world = dist.get_rank(), dist.get_world_size()
    everyone = dist.new_group(backend="gloo")  # waits without the GPU
    sizes = [size for size in (1, 2, 4, 8) if size <= world]
    groups = [ContextGroup(dist.new_group(list(range(size))), rank, size) for size in sizes]
    name = torch.cuda.get_device_name() if cuda else "CPU"
    say(f"{world} x {name}, torch {torch.__version__}")
    check(groups[-1], device)

    rows = []
    for group in groups:
        row = {"gpus": group.size}
        for kind, measure in (("context", context_step), ("data", data_step)):
            dist.barrier(everyone)
            if rank < group.size:
                row[kind] = measure(group, device, arguments)
        rows.append(row)
    say(f"\none sequence of {arguments.length:,} tokens, chunks of {arguments.chunk:,} a GPU")
    table(rows, "context", lambda row: arguments.length)
    say(f"\ndata parallel, {arguments.data_length:,} tokens a GPU")
    table(rows, "data", lambda row: arguments.data_length * row["gpus"])
    if arguments.out and rank == 0:
        arguments.out.mkdir(parents=True, exist_ok=True)
        about = {"device": name, "torch": torch.__version__, "arguments": {**vars(arguments), "out": None}}
        (arguments.out / "context_gpu.json").write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    dist.barrier(everyone)
    dist.destroy_process_group()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--length", type=int, default=2**22)
    parser.add_argument("--chunk", type=int, default=2**18)
    parser.add_argument("--data-length", type=int, default=2**17)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3, help="timed, after one to warm up")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def say(text: str) -> None:
    if dist.get_rank() == 0:
        print(text, flush=True)


def check(group: ContextGroup, device: torch.device) -> None:
    """The ranks together give what this one gives alone; stops with the name of what differs."""
    config = MambaConfig(d_model=64, n_layer=2)
    model = CausalLM(config, torch.Generator().manual_seed(0)).to(device)
    length = 4099
    tokens = torch.randint(16, (2, length), generator=torch.Generator().manual_seed(1)).to(device)
    weights = torch.randn(2, length, 16, generator=torch.Generator().manual_seed(2)).to(device)
    state = tuple(
        BlockState(torch.randn_like(layer.conv), torch.randn_like(layer.ssm))
        for layer in model.initial_state(2)
    )
    for layer in state:
        for tensor in layer:
            dist.broadcast(tensor, 0)
    found = step_for_check(model, tokens, weights, state, slice(0, length), None)
    here = shard_of(group, length - 7)  # the last rank takes seven steps more
    here = slice(here.start, length if group.rank == group.size - 1 else here.stop)
    shared = step_for_check(model, tokens, weights, state, here, group)
    compare("one sequence", here, found, shared, group)

    borders = torch.tensor([0, 5, 1024, length // 2, length - 1, length], device=device)
    stops = [shard_of_rank(group, r, length).stop for r in range(group.size)]
    lengths = [stop - start for start, stop in zip([0, *stops], stops, strict=False)]
    mine = cut_cu_seqlens(borders, lengths)[group.rank]
    here = shard_of(group, length)
    found = step_for_check(model, tokens[:1], weights[:1], None, slice(0, length), None, borders)
    shared = step_for_check(model, tokens[:1], weights[:1], None, here, group, mine)
    compare("packed sequences", here, found, shared, group)


def shard_of_rank(group: ContextGroup, rank: int, length: int) -> slice:
    return shard_of(ContextGroup(group.group, rank, group.size), length)


def step_for_check(
    model: CausalLM, tokens: Tensor, weights: Tensor, state: ModelState | None, here: slice,
    context: ContextGroup | None, cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:  # fmt: skip
    """Logits; the last state and the gradient of the first, if there is one; gradients of the parameters."""
    leaves = (
        None if state is None else tuple(BlockState(*(t.clone().requires_grad_() for t in s)) for s in state)
    )
    logits, last = model(tokens[:, here], leaves, context=context, cu_seqlens=cu_seqlens)
    loss = (logits * weights[:, here]).sum()
    ends: list[Tensor] = []
    starts: list[Tensor] = []
    if leaves is not None:
        ends, starts = flat(last), flat(leaves)
        loss = loss + sum((tensor * tensor).sum() for tensor in ends)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, [*starts, *parameters])
    states = [*(tensor.detach() for tensor in ends), *gradients[: len(starts)]]
    return logits.detach(), states, list(gradients[len(starts) :])


def flat(state: ModelState) -> list[Tensor]:
    return [tensor for layer in state for tensor in layer]


def compare(what: str, here: slice, alone: Any, shared: Any, group: ContextGroup) -> None:
    summed = [gradient.contiguous() for gradient in shared[2]]
    for gradient in summed:
        dist.all_reduce(gradient, group=group.group)
    pairs = [(alone[0][:, here], shared[0]), *zip(alone[1] + alone[2], shared[1] + summed, strict=True)]
    errors = [((a - b).abs().max() / a.abs().max().clamp(min=1e-30)).item() for a, b in pairs]
    worst = torch.tensor(max(errors), device=shared[0].device)
    dist.all_reduce(worst, dist.ReduceOp.MAX, group=group.group)
    say(f"{what}: largest relative error of logits, states and gradients {worst.item():.2g}")
    if not worst.item() <= RTOL:
        raise SystemExit(f"{what}: {group.size} ranks together differ from one alone by {worst.item():.2g}")


def context_step(
    group: ContextGroup, device: torch.device, arguments: argparse.Namespace
) -> dict[str, float]:
    """Time and memory of a step on one sequence, in chunks; each rank takes its shard of every chunk."""
    model, optimizer = make_model(device, arguments)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(7, 11, (1, arguments.length), generator=generator, dtype=torch.uint8).to(device)
    context = group if group.size > 1 else None
    span = arguments.chunk * group.size
    starts = range(0, arguments.length, span)

    def read(start: int, state: ModelState | None) -> tuple[Tensor, ModelState]:
        """Sum of the losses of this rank's shard of a chunk, and the state after the chunk."""
        here = shard_of(group, min(span, arguments.length - start))
        here = slice(start + here.start, start + here.stop)
        given = tokens[:, here.start : here.stop + 1].long()
        with torch.autocast(device.type, torch.bfloat16):
            logits, state = model(given[:, : here.stop - here.start], state, context=context)
        targets = given[:, 1:].flatten()
        loss = functional.cross_entropy(logits[0, : len(targets)].float(), targets, reduction="sum")
        return loss / arguments.length, state

    def step() -> None:
        states: list[ModelState | None] = [None]
        with torch.no_grad():
            for start in starts[:-1]:
                states.append(read(start, states[-1])[1])
        owed: list[Tensor] = []
        for start, state in zip(reversed(starts), reversed(states), strict=True):
            leaves = None
            if state is not None:
                leaves = tuple(BlockState(*(t.detach().requires_grad_() for t in layer)) for layer in state)
            loss, end = read(start, leaves)
            torch.autograd.backward([loss, *(flat(end) if owed else [])], [torch.ones_like(loss), *owed])
            owed = [] if leaves is None else [t.grad for t in flat(leaves) if t.grad is not None]
        reduce_gradients(model, group, dist.ReduceOp.SUM)
        optimizer.step()
        optimizer.zero_grad()

    return timed(step, group, device, arguments.steps)


def data_step(group: ContextGroup, device: torch.device, arguments: argparse.Namespace) -> dict[str, float]:
    """Time and memory of a step with a sequence on each rank."""
    model, optimizer = make_model(device, arguments)
    generator = torch.Generator().manual_seed(group.rank)
    tokens = torch.randint(7, 11, (1, arguments.data_length + 1), generator=generator).to(device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            logits, _ = model(tokens[:, :-1])
        functional.cross_entropy(logits[0].float(), tokens[0, 1:]).backward()
        reduce_gradients(model, group, dist.ReduceOp.SUM)
        optimizer.step()
        optimizer.zero_grad()

    return timed(step, group, device, arguments.steps)


def make_model(device: torch.device, arguments: argparse.Namespace) -> tuple[CausalLM, torch.optim.Optimizer]:
    preset = mamba_dna_7m()
    config = MambaConfig(d_model=preset.d_model, n_layer=arguments.layers)
    model = CausalLM(config, torch.Generator().manual_seed(0)).to(device)
    return model, torch.optim.AdamW(model.parameters(), fused=True)


def reduce_gradients(model: CausalLM, group: ContextGroup, op: Any) -> None:
    """All gradients in one collective."""
    if group.size == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(together, op, group=group.group)
    for gradient, reduced in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(reduced.view_as(gradient))


def timed(
    step: Callable[[], None], group: ContextGroup, device: torch.device, steps: int
) -> dict[str, float]:
    """Median seconds of a step after one to warm up, and peak memory, the largest of all ranks."""
    cuda = device.type == "cuda"
    step()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(steps):
        dist.all_reduce(torch.zeros(1, device=device), group=group.group)  # all start together
        if cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() / 1e9 if cuda else 0.0
    found = torch.tensor([statistics.median(seconds), peak], device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX, group=group.group)
    if cuda:
        torch.cuda.empty_cache()
    return dict(zip(("seconds", "gigabytes"), found.tolist(), strict=True))


def table(rows: list[dict[str, Any]], kind: str, tokens: Callable[[dict[str, Any]], int]) -> None:
    """Printed by rank 0, which took part in every measurement."""
    say("| GPUs | ms a step | tokens/s | speed-up | GB a GPU |\n|---|---|---|---|---|")
    if dist.get_rank() > 0:
        return
    alone = tokens(rows[0]) / rows[0][kind]["seconds"]
    for row in rows:
        seconds, gigabytes = row[kind]["seconds"], row[kind]["gigabytes"]
        speed = tokens(row) / seconds
        say(f"| {row['gpus']} | {1e3 * seconds:.1f} | {speed:,.0f} | {speed / alone:.2f} | {gigabytes:.1f} |")


if __name__ == "__main__":
    main()
