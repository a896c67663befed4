"""Tiny runs over synthetic speech."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from bioaudio_data.audio import Quantiser, WaveformStore, convert_audio, layout
from bioaudio_data.samples.synthetic_speech import write_synthetic_speech
from bioaudio_recipes.optimisation import OptimizerConfig
from bioaudio_recipes.pretrain.length_warmup import LengthWarmup, Stage
from bioaudio_recipes.pretrain.starting_waveform_model import ABOUT
from bioaudio_recipes.pretrain.waveform_data import WaveformData, WaveformValidation
from bioaudio_recipes.run_folder import RunFolder
from bioaudio_recipes.training.engine import TrainerConfig

from bioaudio_mamba import BlockConfig, SashimiConfig, WaveformLM
from bioaudio_mamba.pretrained import save_pretrained

RATE = 1000
TINY = SashimiConfig(d_model=8, n_layer=1, pooling=(2, 2), blocks=(BlockConfig(d_state=4),))


def make_store(folder: Path, **options: Any) -> WaveformStore:
    """Synthetic digits at 1 kHz: takes 0 and 1 of each digit and voice for test and validation."""
    write_synthetic_speech(folder / "clips", takes=3, sample_rate=RATE)
    tags, split = layout("fsdd")
    given = {"tags": tags, "split": type(split)(by="index", valid=("1",), test=("0",))} | options
    return convert_audio(folder / "clips", folder / "store", sample_rate=RATE, progress=False, **given)


def arguments(store: Path, out: Path, **trainer: Any) -> dict[str, Any]:
    """A run of 13 steps in two stages, with everything switched on that a checkpoint has to carry."""
    engine: dict[str, Any] = {
        "tokens_per_microbatch": 64,
        "accelerator": "cpu",
        "num_workers": 0,
        "log_every": 2,
        "checkpoint_every": 3,
        "progress": False,
    }
    return {
        "out": out,
        "data": WaveformData(store=store, conditional=True),
        "schedule": LengthWarmup(
            stages=[Stage(length=32, steps=7), Stage(length=64, steps=6)], tokens_per_step=128
        ),
        "model": TINY,
        "optimizer": OptimizerConfig(learning_rate=2e-3, ema_decay=0.9),
        "validation": WaveformValidation(max_samples=256, every=5),
        "trainer": TrainerConfig(**(engine | trainer)),
    }


def make_run(
    root: Path, config: SashimiConfig = TINY, labels: tuple[str, ...] = (), **about_it: Any
) -> RunFolder:
    """A run's folder with a model of random weights."""
    folder = RunFolder(root).create()
    about = {"quantiser": Quantiser().to_dict(), "sample_rate": RATE, "labels": list(labels), **about_it}
    save_pretrained(WaveformLM(config, torch.Generator().manual_seed(0)), folder.model, {ABOUT: about})
    return folder
