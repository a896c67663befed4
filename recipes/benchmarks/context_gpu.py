"""One sequence over several GPUs: whether it is right, and how much faster it is.

    torchrun --nproc-per-node 4 recipes/benchmarks/context_gpu.py --out DIR

First, at small sizes, the ranks together against each rank alone: logits, states, all gradients, unequal
shards, packed sequences, a training step in chunks. Then the time of a training step of the 7 M-parameter
model (bfloat16, AdamW, `next_token_sums` under DistributedDataParallel, as `pretrain` runs it) on 1, 2, 4 ...
GPUs: one sequence of `--length` tokens, read in chunks of `--chunk` tokens a GPU, and ordinary data
parallelism with a sequence of `--data-length` tokens on each, recorded as CUDA graphs. Prints tables; writes
DIR/context_gpu.json. `--device cpu` runs it all on gloo, to try it out with small sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from bioaudio_kernels import cut_cu_seqlens
from bioaudio_recipes.pretrain.next_token_loss import TokenSums, next_token_sums
from bioaudio_recipes.training.recorded_pass import RecordedPass
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

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
    everyone: Any = dist.new_group(backend="gloo")  # waits without the GPU
    sizes = [size for size in (1, 2, 4, 8) if size <= world]
    names = ("data", "context")
    meshes = [init_device_mesh(device.type, (1, size), mesh_dim_names=names) for size in sizes]
    name = torch.cuda.get_device_name() if cuda else "CPU"
    say(f"{world} x {name}, torch {torch.__version__}")
    if rank < sizes[-1]:
        check(ContextGroup.of(meshes[-1]["context"]), device)

    rows = []
    for size, mesh in zip(sizes, meshes, strict=True):
        row: dict[str, Any] = {"gpus": size}
        for kind, measure in (("context", context_step), ("data", data_step)):
            dist.barrier(everyone)
            if rank < size:
                row[kind] = measure(ContextGroup.of(mesh["context"]), device, arguments)
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


class TrainingStep(nn.Module):
    """The loss of a step on packed bases, divided so that the mean over the ranks is one over all tokens."""

    def __init__(
        self,
        model: CausalLM,
        chunk_length: int | None,
        context: ContextGroup | None,
        *,
        recorded: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.chunk_length = chunk_length
        self.context = context
        self.run = RecordedPass(self._sums, model.parameters()) if recorded else self._sums

    def forward(self, packed: Tensor) -> Tensor:
        ranks = 1 if self.context is None else self.context.size
        return self.run(packed)[0] * ranks / packed.numel()

    def _sums(self, packed: Tensor) -> TokenSums:
        return next_token_sums(self.model, packed, chunk_length=self.chunk_length, context=self.context)


def parallel(step: TrainingStep, group: ContextGroup) -> nn.Module:
    """The step, its gradients averaged over the ranks."""
    if group.size == 1:
        return step
    # As Lightning does: what DDP hangs on the parameters must not bind their gradients to the default stream,
    # which a recording may not wait for.
    with torch.cuda.stream(torch.cuda.Stream()) if torch.cuda.is_available() else nullcontext():
        return DistributedDataParallel(step, process_group=group.group)


def make_model(device: torch.device, d_model: int, n_layer: int) -> CausalLM:
    config = MambaConfig(d_model=d_model, n_layer=n_layer)
    return CausalLM(config, torch.Generator().manual_seed(0)).to(device)


def random_bases(rows: int, length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(7, 11, (rows, length), generator=generator, dtype=torch.uint8)


def check(group: ContextGroup, device: torch.device) -> None:
    """The ranks together give what this one gives alone; stops with the name of what differs."""
    model, length = make_model(device, 64, 2), 4099
    tokens = torch.randint(16, (2, length), generator=torch.Generator().manual_seed(1)).to(device)
    weights = torch.randn(2, length, 16, generator=torch.Generator().manual_seed(2)).to(device)
    generator = torch.Generator().manual_seed(3)
    state = tuple(
        BlockState(*(torch.randn(t.shape, generator=generator).to(device) for t in layer))
        for layer in model.initial_state(2)
    )
    alone = step_for_check(model, tokens, weights, state, slice(0, length), None)
    here = shard_of(group, length - 7)  # the last rank takes seven steps more
    here = slice(here.start, length if group.rank == group.size - 1 else here.stop)
    shared = step_for_check(model, tokens, weights, state, here, group)
    compare("one sequence", [(alone[0][:, here], shared[0]), *zip(alone[1], shared[1], strict=True)], group)

    borders = torch.tensor([0, 5, 1024, length // 2, length - 1, length], device=device)
    shards = [shard_of(replace(group, rank=rank), length) for rank in range(group.size)]
    mine = cut_cu_seqlens(borders, [shard.stop - shard.start for shard in shards])[group.rank]
    here = shards[group.rank]
    alone = step_for_check(model, tokens[:1], weights[:1], None, slice(0, length), None, borders)
    shared = step_for_check(model, tokens[:1], weights[:1], None, here, group, mine)
    compare("packed", [(alone[0][:, here], shared[0]), *zip(alone[1], shared[1], strict=True)], group)

    packed = random_bases(2, length).to(device)
    alone = TrainingStep(model, None, None)
    together = parallel(TrainingStep(deepcopy(model), 300, group), group)
    for step in (alone, together):
        step(packed).backward()
    gradients = ([p.grad for p in step.parameters()] for step in (alone, together))
    compare("a training step in chunks", list(zip(*gradients, strict=True)), group)


def step_for_check(
    model: CausalLM, tokens: Tensor, weights: Tensor, state: ModelState | None, here: slice,
    context: ContextGroup | None, cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """Logits; the last state and the gradient of the first, if there is one, and those of the parameters."""
    leaves = (
        None if state is None else tuple(BlockState(*(t.clone().requires_grad_() for t in s)) for s in state)
    )
    logits, last = model(tokens[:, here], leaves, context=context, cu_seqlens=cu_seqlens)
    loss = (logits * weights[:, here]).sum()
    ends: list[Tensor] = []
    starts: list[Tensor] = []
    if leaves is not None:
        ends, starts = ([t for layer in s for t in layer] for s in (last, leaves))
        loss = loss + sum((tensor * tensor).sum() for tensor in ends)
    gradients = torch.autograd.grad(loss, [*starts, *model.parameters()])
    of_parameters = [gradient.contiguous() for gradient in gradients[len(starts) :]]
    if context is not None:
        for gradient in of_parameters:
            dist.all_reduce(gradient, group=context.group)
    return logits.detach(), [*(t.detach() for t in ends), *gradients[: len(starts)], *of_parameters]


def compare(what: str, pairs: list[tuple[Any, ...]], group: ContextGroup) -> None:
    """Of one rank alone and of all together."""
    errors = [((a - b).abs().max() / a.abs().max().clamp(min=1e-30)).item() for a, b in pairs]
    worst = torch.tensor(max(errors), device=pairs[0][0].device)
    dist.all_reduce(worst, dist.ReduceOp.MAX, group=group.group)
    say(f"{what}: largest relative error {worst.item():.2g}")
    if not worst.item() <= RTOL:
        raise SystemExit(f"{what}: {group.size} ranks together differ from one alone by {worst.item():.2g}")


def context_step(
    group: ContextGroup, device: torch.device, arguments: argparse.Namespace
) -> dict[str, float]:
    """Time and memory of a step on one sequence, in chunks; each rank takes its shard of every chunk."""
    packed = random_bases(1, arguments.length).to(device)
    return timed(arguments.chunk, group if group.size > 1 else None, packed, group, arguments)


def data_step(group: ContextGroup, device: torch.device, arguments: argparse.Namespace) -> dict[str, float]:
    """Time and memory of a step with a sequence on each rank."""
    packed = random_bases(1, arguments.data_length, group.rank).to(device)
    return timed(None, None, packed, group, arguments)


def timed(
    chunk_length: int | None,
    context: ContextGroup | None,
    packed: Tensor,
    group: ContextGroup,
    arguments: argparse.Namespace,
) -> dict[str, float]:
    """Median seconds of a step after one to warm up, and peak memory, the largest of all ranks."""
    device = packed.device
    cuda = device.type == "cuda"
    model = make_model(device, mamba_dna_7m().d_model, arguments.layers)
    recorded = cuda and chunk_length is None
    loss = parallel(TrainingStep(model, chunk_length, context, recorded=recorded), group)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            value = loss(packed)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    if cuda:
        torch.cuda.reset_peak_memory_stats()
    step()
    seconds = []
    for _ in range(arguments.steps):
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
