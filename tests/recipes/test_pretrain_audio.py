"""`bioaudio pretrain-audio`: what it trains on, that it goes on exactly, and what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import audio_runs
import numpy as np
import pytest
import torch
from bioaudio_data.audio import Quantiser, TagConfig, WaveformStore
from bioaudio_recipes.cli import RECIPES, main, parser_for, with_recipe_paths
from bioaudio_recipes.commands.pretrain_audio import pretrain_audio
from bioaudio_recipes.pretrain.batch_order import BatchKey
from bioaudio_recipes.pretrain.length_warmup import LengthWarmup, Stage
from bioaudio_recipes.pretrain.objective import NextSample, WaveformBatch
from bioaudio_recipes.pretrain.waveform_data import WaveformBatches, WaveformCorpus, WaveformData
from bioaudio_recipes.run_folder import RunFolder
from bioaudio_recipes.training.block_memory import Mode, bytes_per_sample
from bioaudio_recipes.training.memory import ADAM_BYTES, WORKSPACE_ON_GPU, MemoryPlan
from tolerances import GRADIENT_RTOL, OUTPUT_RTOL, assert_close
from torch.nn import functional

from bioaudio_mamba import BlockConfig, SashimiConfig, WaveformLM, audio_presets, count_parameters
from bioaudio_mamba.pretrained import load_pretrained_waveform

NAMES = sorted(path.stem for path in (RECIPES / "pretrain-audio").glob("*.yaml"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> WaveformStore:
    return audio_runs.make_store(tmp_path_factory.mktemp("audio"))


@pytest.fixture(scope="module")
def finished(store: WaveformStore, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert "test bits per sample" in pretrain_audio(**audio_runs.arguments(store.path, out))
    return RunFolder(out)


def batch_of(rng: torch.Generator, rows: int = 3, length: int = 24) -> WaveformBatch:
    codes = torch.randint(256, (rows, length), generator=rng).to(torch.uint8)
    counted = torch.arange(length) < torch.tensor([length, 10, 1])[:rows, None]
    return WaveformBatch(codes, counted, torch.tensor([2, 0, 1])[:rows])


def test_sums_are_those_of_shifted_logits(rng: torch.Generator) -> None:
    model = WaveformLM(replace(audio_runs.TINY, n_classes=3), rng)
    codes, counted, labels = batch = batch_of(rng)
    heard = functional.pad(codes[:, :-1].long(), (1, 0), value=128)
    nll = functional.cross_entropy(
        model(heard, labels=labels)[0].transpose(1, 2), codes.long(), reduction="none"
    )
    for plan in (MemoryPlan(), MemoryPlan(mode="chunks", chunk_length=5)):
        sums = NextSample(128, conditional=True).sums(model, batch, plan.chunk_length_of)
        assert sums.targets == sums.weight == 24 + 10 + 1
        assert_close(sums.nll, nll[counted].sum().detach(), OUTPUT_RTOL[torch.float32])
        sums.weighted_nll.backward()
    gradient = model.lm_head.bias.grad
    assert gradient is not None
    model.zero_grad()
    nll[counted].sum().backward()
    assert_close(gradient / 2, model.lm_head.bias.grad, GRADIENT_RTOL[torch.float32])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("short", ["mask", "silence"])
def test_batches_are_windows_of_training_clips(store: WaveformStore, short: Any) -> None:
    corpus = WaveformCorpus(WaveformData(store=store.path, conditional=True, short=short))
    windows = corpus.training_windows(600)
    batches = WaveformBatches([windows], corpus, seed=3)
    key = BatchKey(0, np.array([0, 0, 1]), np.array([4, 2, 0]))
    codes, counted, labels = batches[key]
    clips, starts, sizes = windows.locate(key.indices, seed=3, epoch=0)
    assert sizes.max() < 600, "every clip is shorter, so its window begins with it"
    for row, clip in enumerate(clips):
        known = store.clips[clip]
        assert known.split == "train"
        span = (known.low, known.high)
        whole = Quantiser().encode(store.samples(clip), span)
        assert np.array_equal(codes[row, : len(whole)], whole)
        assert store.index.labels[int(labels[row])] == known.label
    assert not starts.any()
    expected = torch.arange(600) < torch.from_numpy(sizes)[:, None]
    assert torch.equal(counted, expected if short == "mask" else torch.ones_like(expected))


def test_a_share_of_labels_is_not_told(store: WaveformStore) -> None:
    """The same ones whatever the batches, others in another epoch; none of those that are held out."""
    data = WaveformData(store=store.path, conditional=True, label_dropout=0.3)
    batches, told = (
        WaveformBatches([corpus.training_windows(8)], corpus, seed=3)
        for corpus in (WaveformCorpus(data), WaveformCorpus(replace(data, label_dropout=0.0)))
    )
    indices = np.arange(len(batches.stages[0]))
    found = [batches[BatchKey(0, np.full_like(indices, epoch), indices)] for epoch in (0, 1)]
    known = told[BatchKey(0, np.zeros_like(indices), indices)].labels
    missing = [labels == -1 for _, _, labels in found]
    assert abs(missing[0].double().mean() - 0.3) < 0.05
    assert not torch.equal(missing[0], missing[1])
    assert torch.equal(torch.where(missing[0], known, found[0].labels), known)
    some = BatchKey(0, np.array([0, 0]), indices[[5, 17]])
    assert torch.equal(batches[some].labels, found[0].labels[[5, 17]])
    assert (WaveformCorpus(data).held_out(8).read(np.arange(20)).labels >= 0).all()


@pytest.mark.gpu
def test_a_run_on_a_gpu_is_scored_there(store: WaveformStore, tmp_path: Path) -> None:
    arguments = audio_runs.arguments(store.path, tmp_path)
    arguments["trainer"] = replace(arguments["trainer"], accelerator="gpu")
    assert "test bits per sample" in pretrain_audio(**arguments)
    scored = json.loads((RunFolder(tmp_path).evaluation / "bits_per_sample.json").read_text())
    assert scored["device"] == torch.cuda.get_device_name()


@pytest.mark.gpu
def test_a_run_on_a_gpu_gives_the_same_bytes_twice(store: WaveformStore, tmp_path: Path) -> None:
    models = []
    for name in ("first", "second"):
        arguments = audio_runs.arguments(store.path, tmp_path / name, accelerator="gpu")
        arguments["trainer"] = replace(arguments["trainer"], tokens_per_microbatch=8192)
        arguments["schedule"] = LengthWarmup(stages=[Stage(length=64, steps=10)], tokens_per_step=8192)
        pretrain_audio(**arguments)
        models.append((RunFolder(tmp_path / name).model / "model.safetensors").read_bytes())
    assert models[0] == models[1]


def test_a_run_leaves_model_quantiser_and_bits(finished: RunFolder, store: WaveformStore) -> None:
    model, extra = load_pretrained_waveform(finished.model)
    assert model.config.n_classes == 10
    assert extra["waveform"] == {
        "quantiser": {"law": "mu-law", "scale": "file", "bits": 8},
        "sample_rate": audio_runs.RATE,
        "labels": [str(digit) for digit in range(10)],
        "label_dropout": 0.0,
    }
    (short, long) = json.loads((finished.evaluation / "bits_per_sample.json").read_text())["lengths"]
    assert (short["length"], long["length"], long["split"]) == (32, 64, "test")
    assert 4 < long["bits"] < 9
    assert long["entropy"] < long["counted"] < 8
    header, *rows = finished.metrics.read_text().splitlines()
    first = dict(zip(header.split(","), rows[0].split(","), strict=True))
    assert float(first["val/bits_per_sample@64"]) == pytest.approx(
        math.log2(float(first["val/perplexity@64"]))
    )


@pytest.mark.parametrize("memory", ["chunks", "blocks"])
def test_a_stopped_run_ends_with_the_same_bytes(
    finished: RunFolder, store: WaveformStore, tmp_path: Path, memory: str
) -> None:
    trainer: dict[str, Any] = {"memory": memory} | ({"chunk_length": 48} if memory == "chunks" else {})
    values = audio_runs.arguments(store.path, tmp_path, **trainer)
    stopping = values | {"trainer": replace(values["trainer"], max_minutes=1e-9)}
    assert "time is up" in pretrain_audio(**stopping)
    assert "13 of 13 steps" in pretrain_audio(**values)
    files = [folder.model / "model.safetensors" for folder in (RunFolder(tmp_path), finished)]
    if memory != "chunks":
        assert files[0].read_bytes() == files[1].read_bytes()
        return
    ours, theirs = (load_pretrained_waveform(file.parent)[0].state_dict() for file in files)
    for name, weight in ours.items():
        assert_close(weight, theirs[name], 10 * GRADIENT_RTOL[torch.float32], name)


def refused(message: str, **values: Any) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        pretrain_audio(**values)
    assert not values["out"].exists() or (values["out"] / "model").is_dir(), "nothing is half-written"


def test_bad_input_is_refused_in_a_line(finished: RunFolder, store: WaveformStore, tmp_path: Path) -> None:
    values = audio_runs.arguments(store.path, tmp_path / "run")
    from_run = values | {"init_from": finished.model, "model": None}
    data = values["data"]
    absolute = {"data": replace(data, quantiser=Quantiser(scale="absolute"))}
    codes = "hears 8-bit mu-law per file at 1,000 Hz .* gives it 8-bit mu-law absolute"
    refused(codes, **(from_run | absolute))
    unlabelled = {"data": replace(data, conditional=False)}
    refused("with the labels .* without labels: give --data.conditional true", **(from_run | unlabelled))
    elsewhere = {"out": finished.root}
    refused("quantiser.scale was 'file', now it is 'absolute'", **(values | absolute | elsewhere))
    dropout = {"data": replace(data, label_dropout=0.1)}
    refused("data.label_dropout was None, now it is 0.1", **(values | dropout | elsewhere))
    unused = {"data": replace(data, conditional=False, label_dropout=0.1)}
    refused("--data.label_dropout needs --data.conditional true", **(values | unused))
    long = {"schedule": LengthWarmup(stages=[Stage(length=2048, steps=1)], tokens_per_step=2048)}
    trainer = {"trainer": replace(values["trainer"], tokens_per_microbatch=2048)}
    skipping = {"data": replace(data, short="skip")}
    refused("choose a shorter window, or pad short clips", **(values | skipping | long | trainer))
    six_bits = {"data": replace(data, quantiser=Quantiser(bits=6))}
    refused("vocab_size is 256, but 6-bit", **(values | six_bits))
    refused("n_classes is 3, but", **(values | {"model": replace(audio_runs.TINY, n_classes=3)}))
    refused("--model is missing", **(values | {"model": None}))
    shared = {"trainer": replace(values["trainer"], devices=2, context=2)}
    refused("stays on one device", **(values | shared))
    if not torch.cuda.is_available():
        missing = {"trainer": replace(values["trainer"], accelerator="gpu")}
        values_there: dict[str, Any] = values | missing | {"out": tmp_path / "nowhere"}
        with pytest.raises(
            ValueError, match=r"--trainer\.accelerator gpu, --trainer\.devices 1 cannot be used here"
        ):
            pretrain_audio(**values_there)
    refused("store", **(values | {"data": replace(data, store=tmp_path / "none")}))


def test_a_test_clip_without_a_label_is_named_before_training(
    store: WaveformStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = store.labels.copy()
    labels[store.of_split("test")[3]] = -1
    monkeypatch.setattr(WaveformStore, "labels", labels)
    values = audio_runs.arguments(store.path, tmp_path / "run")
    refused("needs a label for every clip; 1 of split test", **values)


def test_missing_labels_are_named(tmp_path: Path) -> None:
    tags = TagConfig(pattern=r"\d_(?P<speaker>\w+)_(?P<index>\d+)")
    values = audio_runs.arguments(audio_runs.make_store(tmp_path, tags=tags).path, tmp_path / "run")
    refused("--data.conditional needs a label for every clip; 30 of split train .* such as 0_synth", **values)


def test_unknown_blocks_exit_2_in_one_line(
    store: WaveformStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--data.store={store.path}", f"--out={tmp_path / 'run'}"]
    flags += ["--schedule.stages=[{length: 32, steps: 1}]", "--schedule.tokens_per_step=32"]
    for block, message in (
        ('{"kind": "mamba-s4", "init": "real"}', "starts from lin, inv or legs"),
        ('{"kind": "s5"}', "s5"),
    ):
        with pytest.raises(SystemExit) as exit_:
            main(["pretrain-audio", *flags, f'--model={{"blocks": [{block}]}}'])
        error = capsys.readouterr().err
        assert exit_.value.code == 2
        assert message in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("name", NAMES)
def test_every_yaml_parses(name: str) -> None:
    parser = parser_for("pretrain-audio")
    flags = with_recipe_paths(
        "pretrain-audio", ["--config", f"pretrain-audio/{name}", "--out=x", "--data.store=x"]
    )
    values = parser.instantiate(parser.parse_args(flags))
    schedule, trainer = values.schedule, values.trainer
    assert schedule.accumulation(trainer.tokens_per_microbatch, trainer.world_size) >= 1


@pytest.mark.parametrize(
    ("preset", "mode", "measured"),
    [
        ("mamba_piano", "full", 12.13),
        ("mamba_piano", "blocks", 6.65),
        ("mamba_piano", "chunks", 2.14),
        ("mamba_s4_piano", "full", 9.80),
        ("mamba_s4_piano", "blocks", 5.81),
        ("mamba_s4_piano", "chunks", 2.18),
    ],
)
def test_estimates_cover_what_a_gpu_needed(preset: str, mode: Mode, measured: float) -> None:
    """The figures of RESULTS.md: a clip of 958,464 samples, chunks of 2^17."""
    config = getattr(audio_presets, preset)()
    samples = 2**17 if mode == "chunks" else 958_464
    parameters = ADAM_BYTES * count_parameters(WaveformLM(config))
    activations = samples * bytes_per_sample(config, mode, half=True, on_gpu=True)
    estimate = (activations + parameters + WORKSPACE_ON_GPU) / 1e9
    assert 0.98 * measured < estimate < 1.7 * measured


@pytest.mark.parametrize("kind", ["mamba", "mamba-s4", "s4", "attention"])
def test_memory_is_estimated_for_every_block(kind: Any) -> None:
    config = SashimiConfig(blocks=(BlockConfig(kind=kind),))
    modes: list[Mode] = ["full", "blocks", "chunks"]
    full, blocks, chunks = (bytes_per_sample(config, mode, half=False, on_gpu=True) for mode in modes)
    assert full == chunks > blocks > 0
    assert bytes_per_sample(config, "full", half=True, on_gpu=True) < full
