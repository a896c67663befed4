"""Training of U-Nets over raw waveforms on one GPU: speed beside mamba_ssm's blocks, and memory.

    python recipes/benchmarks/unet_gpu.py --out DIR

Full training steps (bfloat16 autocast, clipped AdamW) on random codes. First the 6.3 M speech network on
clips of 16,000 samples: as it is, with mamba_ssm's `Mamba` in the place of each of our Mamba blocks and the
same weights, and as SaShiMi's U-Net of S4 + MLP; each as autograd runs it and as one CUDA graph
(`RecordedPass`). Then the piano networks on a single clip of 958,464 samples, with each way to keep
activations, beside the estimate by which `--trainer.memory auto` chooses. Prints tables; writes
DIR/unet_gpu.json.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from bioaudio_recipes.optimisation import rescale_and_clip
from bioaudio_recipes.pretrain.objective import NextSample, WaveformBatch
from bioaudio_recipes.training.block_memory import Mode, bytes_per_sample
from bioaudio_recipes.training.recorded_pass import RecordedPass
from torch import Tensor, nn

from bioaudio_mamba import SashimiConfig, WaveformLM, audio_presets

CLIP, LONG_CLIP = 16_000, 958_464
CHUNK = 2**17
OBJECTIVE = NextSample(zero=128)
RTOL = 2e-2
"""Of a loss and of the norm of its gradient between the two kinds of blocks, in bfloat16."""


class PeerBlock(nn.Module):
    """mamba_ssm's block with the weights of one of ours; it carries no state."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        peer = importlib.import_module("mamba_ssm.modules.mamba_simple").Mamba
        config = block.config
        self.mamba = peer(config.d_model, config.d_state, config.d_conv, config.expand, dt_rank=config.rank)
        self.mamba.load_state_dict(block.state_dict())

    def initial_state(self, batch_size: int, device: Any = None) -> tuple[()]:
        return ()

    def forward(self, hidden: Tensor, state: Any, **packing: Any) -> tuple[Tensor, tuple[()]]:
        return self.mamba(hidden), ()


def network(config: SashimiConfig, *, peer: bool = False) -> WaveformLM:
    model = WaveformLM(config, torch.Generator().manual_seed(0))
    if peer:
        for module in list(model.modules()):
            if hasattr(module, "mixer"):
                layer = cast(Any, module)
                layer.mixer = PeerBlock(layer.mixer)
    return model.cuda()


class Trainee:
    """A network with its optimizer."""

    def __init__(self, model: WaveformLM, *, recorded: bool = False, chunk_length: int | None = None) -> None:
        def sums(batch: WaveformBatch) -> Any:
            with torch.autocast("cuda", torch.bfloat16):
                return OBJECTIVE.sums(model, batch, lambda rows: chunk_length)

        self.model = model
        self.sums = RecordedPass(sums, model.parameters()) if recorded else sums
        self.optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)

    def step(self, batch: WaveformBatch) -> tuple[Tensor, Tensor]:
        """One step; returns the mean loss and the norm of its gradient."""
        loss, weight, *_ = self.sums(batch)
        loss.backward()
        norm = rescale_and_clip(self.model.parameters(), 1 / weight, 0.1)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach() / weight, norm


def random_clips(rows: int, length: int) -> WaveformBatch:
    codes = torch.randint(256, (rows, length), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    counted = torch.ones(rows, length, dtype=torch.bool)
    return WaveformBatch(codes.cuda(), counted.cuda(), torch.full((rows,), -1).cuda())


def milliseconds(step: Callable[[], object], steps: int) -> float:
    """Of a step, the host's work included."""
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - begun) / steps


def speech(rows: int, rounds: int, with_peer: bool) -> list[dict[str, Any]]:
    """Times of all contenders, in turn."""
    mamba, batch = audio_presets.mamba_speech_small(), random_clips(rows, CLIP)
    networks = {"ours": lambda: network(mamba)}
    if with_peer:
        networks["mamba_ssm's blocks"] = lambda: network(mamba, peer=True)
    networks["S4 + MLP"] = lambda: network(audio_presets.sashimi_tied())
    contenders: dict[str, Trainee] = {}
    peaks: dict[str, float] = {}
    first: dict[str, list[float]] = {}
    for kind, make in networks.items():
        for recorded in (False, True):
            name = kind + (", recorded" if recorded else "")
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            try:
                trainee = Trainee(make(), recorded=recorded)
                first[name] = [value.item() for value in trainee.step(batch)]
                trainee.step(batch)
            except Exception as error:  # a peer that cannot be recorded, or needs too much memory
                print(f"{name}: {type(error).__name__}: {error}")
                continue
            contenders[name] = trainee
            peaks[name] = (torch.cuda.max_memory_allocated() - before) / 1e9
    for name, values in first.items():
        expected = first["S4 + MLP" if name.startswith("S4") else "ours"]
        for value, of_ours in zip(values, expected, strict=True):
            if not abs(value - of_ours) <= RTOL * of_ours:
                raise SystemExit(f"{name}: loss and norm of the gradient {values}, not {expected}")
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, trainee in contenders.items():
            times[name].append(milliseconds(lambda trainee=trainee: trainee.step(batch), steps=4))
    return [
        {
            "rows": rows,
            "name": name,
            "ms": (median := statistics.median(each)),
            "samples_per_s": 1e3 * rows * CLIP / median,
            "gigabytes": peaks[name],
            "loss": first[name][0],
        }
        for name, each in times.items()
    ]


def piano(preset: str, mode: Mode) -> dict[str, Any]:
    """Time and memory of a step on one long clip."""
    config, batch = getattr(audio_presets, preset)(), random_clips(1, LONG_CLIP)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    model = network(config)
    model.backbone.checkpoint_blocks = mode == "blocks"
    chunk = CHUNK if mode == "chunks" else None
    trainee = Trainee(model, chunk_length=chunk)
    trainee.step(batch)
    median = statistics.median(milliseconds(lambda: trainee.step(batch), steps=1) for _ in range(3))
    return {
        "preset": preset,
        "mode": mode,
        "ms": median,
        "samples_per_s": 1e3 * LONG_CLIP / median,
        "gigabytes": torch.cuda.max_memory_allocated() / 1e9,
        "estimate": (chunk or LONG_CLIP) * bytes_per_sample(config, mode, half=True, on_gpu=True) / 1e9,
    }


def compile_level(preset: str, number: int, rows: int, length: int) -> None:
    """Fill Triton's cache with the kernels of one level, by a step of a single block at its rate."""
    config = getattr(audio_presets, preset)()
    rate = 1
    for pool in config.pooling[:number]:
        rate *= pool
    one = replace(config, d_model=config.width(number), n_layer=1, pooling=(), blocks=(config.block(number),))
    Trainee(network(one)).step(random_clips(rows, length // rate))


def compile_ahead(rows: list[int]) -> None:
    """All levels in parallel: one after another they take minutes."""
    shapes = [(preset, count, CLIP) for preset in ("mamba_speech_small", "sashimi_tied") for count in rows]
    shapes += [("mamba_piano", 1, LONG_CLIP), ("mamba_s4_piano", 1, LONG_CLIP)]
    code = "import sys, unet_gpu; unet_gpu.compile_level(sys.argv[1], *map(int, sys.argv[2:]))"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, preset, *map(str, (number, count, length))],
            cwd=Path(__file__).parent,
        )
        for preset, count, length in shapes
        for number in range(3)
    ]
    for worker in workers:
        worker.wait()


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        importlib.import_module("mamba_ssm.modules.mamba_simple")
        with_peer = True
    except ImportError:
        with_peer = False
    about = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    begun = time.perf_counter()
    compile_ahead(arguments.rows)
    print(f"compiled ahead: {time.perf_counter() - begun:.0f} s")
    print(f"{about['gpu']}, torch {about['torch']}; clips of {CLIP:,} samples, mamba_speech_small")
    print("| clips | | ms a step | samples/s | GB | loss |\n|---|---|---|---|---|---|", flush=True)
    results: dict[str, Any] = about | {"speech": [], "piano": []}

    def save(kind: str, row: dict[str, Any]) -> None:
        results[kind].append(row)
        (arguments.out / "unet_gpu.json").write_text(json.dumps(results, indent=1))

    for count in arguments.rows:
        for row in speech(count, arguments.rounds, with_peer):
            save("speech", row)
            print(
                f"| {count} | {row['name']} | {row['ms']:.1f} | {row['samples_per_s'] / 1e6:.2f} M "
                f"| {row['gigabytes']:.2f} | {row['loss']:.4f} |",
                flush=True,
            )
        torch.cuda.empty_cache()
    print(f"\none clip of {LONG_CLIP:,} samples; chunks of {CHUNK:,}")
    print("| network | | ms a step | samples/s | GB | estimate of activations |\n|---|---|---|---|---|---|")
    modes: tuple[Mode, ...] = ("full", "blocks", "chunks")
    for preset in ("mamba_piano", "mamba_s4_piano"):
        for mode in modes:
            row = piano(preset, mode)
            save("piano", row)
            print(
                f"| {preset} | {mode} | {row['ms']:.0f} | {row['samples_per_s'] / 1e6:.2f} M "
                f"| {row['gigabytes']:.2f} | {row['estimate']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
