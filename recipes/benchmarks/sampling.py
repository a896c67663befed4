"""Sampling speed of the 6.3 M U-Net beside a plain eager loop, in one run, on a CPU or a GPU.

    python recipes/benchmarks/sampling.py --device cpu --batches 1 8
    python recipes/benchmarks/sampling.py --device cuda --batches 1 64 1024

The plain loop is that of public SaShiMi code, at its best: a call of its module for each layer and sample,
every stage at its own rate, `torch.multinomial` from a softmax. Ours is `Sampler`: the fused step in CUDA
graphs of whole cycles, or the compiled step on a CPU; random numbers and log-likelihoods included.
"""

from __future__ import annotations

import argparse
import time

import torch
from bioaudio_recipes.generation.drawing import Drawing
from bioaudio_recipes.generation.sampler import Sampler

from bioaudio_mamba import WaveformLM, audio_presets

SECONDS = 5.0
"""Of each measurement, about."""


@torch.no_grad()
def plain(model: WaveformLM, batch: int, samples: int) -> None:
    """One eager step after another."""
    code = torch.full((batch,), 128, device=model.lm_head.weight.device)
    state = model.initial_state(batch)
    for _ in range(samples):
        logits, state = model.step(code, state)
        code = torch.multinomial(torch.softmax(logits, -1), 1).squeeze(1)


def seconds(run: object, device: str) -> float:
    """Wall-clock of a call."""
    assert callable(run)
    begun = time.perf_counter()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def speed(sample: object, batch: int, cycle: int, device: str) -> float:
    """Samples a second over all sequences: warmed up, then for about `SECONDS`."""
    assert callable(sample)
    sample(batch, 4 * cycle)
    taken = seconds(lambda: sample(batch, 4 * cycle), device)
    samples = max(4, round(SECONDS / taken * 4)) * cycle
    return batch * samples / seconds(lambda: sample(batch, samples), device)


def main() -> None:
    """Print a row for each batch."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--preset", default="mamba_speech_small")
    options = parser.parse_args()
    config = getattr(audio_presets, options.preset)()
    model = WaveformLM(config, torch.Generator().manual_seed(0)).to(options.device).requires_grad_(False)
    sampler = Sampler(model, Drawing(), 128, seed=0)

    def ours(batch: int, samples: int) -> None:
        for _ in sampler.sample(range(batch), samples):
            pass

    print(
        f"{options.preset} on {options.device}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    print("batch | plain, samples/s | ours, samples/s | ratio | ours, us a step")
    for batch in options.batches:
        other = speed(lambda *sizes: plain(model, *sizes), batch, config.cycle, options.device)
        mine = speed(ours, batch, config.cycle, options.device)
        print(
            f"{batch:5d} | {other:16,.0f} | {mine:15,.0f} | {mine / other:5.1f}x | {1e6 * batch / mine:.1f}"
        )


if __name__ == "__main__":
    main()
