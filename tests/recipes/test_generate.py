"""`bioaudio generate`: clips are exact draws of the network, the same however they are cut, and ranked."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import audio_runs
import numpy as np
import pytest
import soundfile
import torch
from audio_runs import RATE, TINY, make_run
from bioaudio_data.audio import Quantiser
from bioaudio_data.vocabulary import DNA
from bioaudio_recipes import cli
from bioaudio_recipes.generation.compiled_network import CompiledNetwork
from bioaudio_recipes.generation.cycle import Drawn, Place, Recorded, stepwise
from bioaudio_recipes.generation.drawing import ClipNumbers, Drawing
from bioaudio_recipes.generation.noise import NoiseDetector
from bioaudio_recipes.generation.sampler import Sampler
from bioaudio_recipes.run_folder import RunFolder
from hypothesis import given
from hypothesis import strategies as st
from tolerances import OUTPUT_RTOL, assert_close
from torch.nn import functional

from bioaudio_mamba import BlockConfig, CausalLM, MambaConfig, WaveformLM
from bioaudio_mamba.pretrained import save_pretrained

BLOCKS = [BlockConfig(d_state=4), BlockConfig(kind="mamba-s4", d_state=4), BlockConfig(kind="s4", d_state=4)]


def network(block: BlockConfig = BLOCKS[0], **changes: Any) -> WaveformLM:
    config = replace(TINY, blocks=(block,), **changes)
    return WaveformLM(config, torch.Generator().manual_seed(0))


def drawn(sampler: Sampler, clips: range, samples: int, **options: Any) -> Drawn:
    blocks = list(sampler.sample(clips, samples, **options))
    return Drawn(*(torch.cat(part, 1) for part in zip(*blocks, strict=True)))


@pytest.mark.parametrize("block", [*BLOCKS, BlockConfig(kind="attention", n_head=2)], ids=lambda b: b.kind)
def test_log_likelihoods_are_those_of_the_whole_pass(block: BlockConfig) -> None:
    model = network(block, n_classes=3)
    labels, prompt = np.array([0, 2]), np.arange(100, 107)
    codes, log_p = drawn(Sampler(model, Drawing(), 128, 0), range(2), 13, labels=labels, prompt=prompt)
    whole = torch.cat([torch.from_numpy(prompt).expand(2, -1), codes], 1)
    heard = functional.pad(whole[:, :-1], (1, 0), value=128)
    exact = torch.log_softmax(model(heard, labels=torch.from_numpy(labels))[0], -1)[:, 7:]
    assert_close(
        log_p, exact.gather(-1, codes.unsqueeze(-1)).squeeze(-1).detach(), OUTPUT_RTOL[torch.float32]
    )


@pytest.mark.parametrize("phase", [0, 5])
def test_the_compiled_network_steps_as_the_model(phase: int) -> None:
    """Two blocks a stage, classes, several sequences, from any phase of the pools through whole cycles."""
    model = network(BlockConfig(dt_rank=3), d_model=24, n_layer=2, pooling=(2, 3), n_classes=3)
    model.requires_grad_(False)
    labels, rng = torch.tensor([0, 2, -1]), torch.Generator().manual_seed(1)
    tokens = torch.randint(256, (phase + 13, 3), generator=rng)
    state = model.initial_state(3)
    for token in tokens[:phase]:
        _, state = model.step(token, state, labels=labels)
    compiled = CompiledNetwork(model)
    here = compiled.state(state)
    for token in tokens[phase:]:
        before, earlier = here, np.copy(here.down.ssm)
        expected, state = model.step(token, state, labels=labels)
        logits, here = compiled.step(token, here, labels=labels)
        assert_close(logits, expected, OUTPUT_RTOL[torch.float32])
        assert np.array_equal(before.down.ssm, earlier), "a state is a value"


def test_clips_do_not_depend_on_their_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Sampler(network(), Drawing(), 128, seed=5)
    together = drawn(sampler, range(4), 30).codes
    monkeypatch.setattr("bioaudio_recipes.generation.sampler.BLOCK", 8)
    apart = torch.cat([drawn(sampler, clips, 30).codes for clips in (range(1), range(1, 4))])
    assert torch.equal(together, apart)
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(drawn(Sampler(network(), Drawing(), 128, seed=6), range(1), 30).codes, apart[:1])


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.kind)
def test_a_recorded_cycle_equals_single_steps(block: BlockConfig) -> None:
    """With a recording that runs again what it was given, as a CUDA graph does after its warm-up."""

    def record(run: Any) -> Any:
        for _ in range(3):
            run()
        return run

    model, drawing = network(block), Drawing(top_k=50)
    uniform = ClipNumbers(0, range(2)).next(5 * 4)
    start = Place(torch.full((2,), 128), model.initial_state(2), None)
    with torch.no_grad():
        _, expected = stepwise(model, drawing)(start, uniform)
        cycle, place, parts = Recorded(stepwise(model, drawing), record), start, []
        for numbers in uniform.split(model.config.cycle, 1):
            place, part = cycle(place, numbers)
            parts.append(part)
    assert torch.equal(torch.cat([part.codes for part in parts], 1), expected.codes)
    assert torch.equal(torch.cat([part.log_p for part in parts], 1), expected.log_p)


@pytest.mark.parametrize("drawing", [Drawing(), Drawing(guidance=3.0)], ids=["plain", "guided"])
def test_a_sampler_with_recorded_cycles_draws_the_same(
    drawing: Drawing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bioaudio_recipes.generation.sampler.cuda_graph", lambda run: run)
    plain, recording = (Sampler(network(n_classes=2), drawing, 128, 0) for _ in range(2))
    recording.records = True
    for labels in (np.array([0, 1]), np.array([1, 1])):
        for prompt in (None, np.array([128, 130, 120])):
            options = {"labels": labels, "prompt": prompt}
            expected = drawn(plain, range(2), 15, **options)
            assert torch.equal(drawn(recording, range(2), 15, **options).codes, expected.codes)


@given(
    temperature=st.sampled_from([0.0, 1e-37, 0.5, 1.0, 2.0]),
    top_k=st.sampled_from([None, 1, 3, 100]),
    top_p=st.sampled_from([None, 0.1, 0.7, 1.0]),
    seed=st.integers(0, 100),
)
def test_draws_are_from_the_cut_distribution(
    temperature: float, top_k: int | None, top_p: float | None, seed: int
) -> None:
    logits = torch.randn(1, 6, generator=torch.Generator().manual_seed(seed)) * 2
    drawing = Drawing(temperature=temperature, top_k=top_k, top_p=top_p)
    uniform = (torch.arange(4000) + 0.5) / 4000
    codes, log_p = drawing(logits.expand(4000, -1), uniform)
    assert torch.equal(log_p, torch.log_softmax(logits, -1)[0, codes])
    p = torch.softmax(logits[0] / max(temperature, 1e-4), -1)
    falling = p.argsort(descending=True)
    kept = falling[: top_k or 6]
    if top_p is not None:
        share = p[kept] / p[kept].sum()
        kept = kept[share.cumsum(0) - share < top_p]
    expected = torch.zeros(6).index_put((kept,), p[kept] / p[kept].sum())
    found = torch.bincount(codes, minlength=6) / 4000
    assert (found - expected).abs().max() < 2e-3


@pytest.mark.parametrize("changes", [{"top_k": 200}, {"temperature": 0.0}, {"temperature": 0.7}], ids=str)
@pytest.mark.parametrize("prompt", [None, np.arange(120, 125)], ids=["start", "prompt"])
def test_guided_clips_are_drawn_from_the_extrapolated_logits(prompt: Any, changes: dict[str, Any]) -> None:
    """Sample by sample, from the network's with the label and without; the likelihood is that with it."""
    model = network(n_classes=3).requires_grad_(False)
    drawing, clips, labels = Drawing(guidance=2.5, **changes), range(3, 5), np.array([2, 0])
    found = drawn(Sampler(model, drawing, 128, seed=1), clips, 13, labels=labels, prompt=prompt)
    numbers = ClipNumbers(1, clips).next(13)
    heard = torch.full((2, 1), 128)
    if prompt is not None:
        heard = torch.cat([heard, torch.from_numpy(prompt).expand(2, -1)], 1)
    for i in range(13):
        conditional, unconditional = (
            torch.log_softmax(model(heard, labels=classes)[0][:, -1], -1)
            for classes in (torch.from_numpy(labels), torch.tensor([-1, -1]))
        )
        codes, _ = Drawing(**changes)(unconditional + 2.5 * (conditional - unconditional), numbers[:, i])
        assert torch.equal(found.codes[:, i], codes)
        assert_close(found.log_p[:, i], conditional[torch.arange(2), codes], OUTPUT_RTOL[torch.float32])
        heard = torch.cat([heard, codes[:, None]], 1)


@pytest.mark.parametrize("guidance", [0.0, 0.5, 3.0])
def test_an_impossible_code_stays_impossible_by_guidance(guidance: float) -> None:
    """Whether it is with the label only, or without too."""
    conditional = torch.tensor([[0.0, 1.0, -torch.inf]])
    for last in (-torch.inf, 2.0):
        logits = torch.cat([conditional, torch.tensor([[0.5, 1.0, last]])])
        for number, code in ((0.01, 0), (0.9, 1)):
            codes, log_p = Drawing(guidance=guidance)(logits, torch.tensor([number]))
            assert codes.tolist() == [code, code]
            assert log_p.isfinite().all()


def test_a_sampler_refuses_labels_that_the_network_does_not_know() -> None:
    """Whatever makes its steps."""
    for model in (network(n_classes=3), network(BLOCKS[1], n_classes=3)):
        for labels in (None, np.array([0, 3]), np.array([-2, 0]), np.array([1])):
            with pytest.raises(ValueError, match="labels"):
                drawn(Sampler(model, Drawing(), 128, 0), range(2), 5, labels=labels)
    with pytest.raises(ValueError, match="labels are given, but the model has n_classes = 0"):
        drawn(Sampler(network(), Drawing(), 128, 0), range(2), 5, labels=np.array([0, 1]))
    with pytest.raises(ValueError, match="the model has no classes"):
        drawn(Sampler(network(), Drawing(guidance=2.0), 128, 0), range(2), 5)


def test_a_network_of_no_numbers_is_not_drawn_from() -> None:
    model = network()
    model.lm_head.bias.data[3] = torch.nan
    with pytest.raises(ValueError, match="probabilities that are no numbers"):
        drawn(Sampler(model, Drawing(), 128, 0), range(2), 5)


def test_guidance_of_one_and_of_none() -> None:
    model, labels = network(n_classes=2), np.array([0, 1])
    plain, untold = (
        drawn(Sampler(model, Drawing(guidance=g), 128, 0), range(2), 12, labels=labels) for g in (1.0, 0.0)
    )
    assert torch.equal(
        plain.codes, drawn(Sampler(model, Drawing(), 128, 0), range(2), 12, labels=labels).codes
    )
    nothing = drawn(Sampler(model, Drawing(), 128, 0), range(2), 12, labels=np.array([-1, -1]))
    assert torch.equal(untold.codes, nothing.codes)


def test_the_largest_number_draws_a_possible_code() -> None:
    logits = torch.tensor([[0.0, 1.0, -torch.inf]])
    codes, _ = Drawing()(logits, torch.tensor([1.0]))
    assert codes.tolist() == [1]


def test_noise_and_silence_are_told_from_speech(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    store = audio_runs.make_store(tmp_path)
    speech = store.samples(0)[:256]
    time = np.arange(256) / RATE
    tail = np.where(np.arange(256) > 0, rng.uniform(-0.8, 0.8, 256), 0)
    clips = {
        "": [speech, 0.7 * np.sin(2 * np.pi * 100 * time), 0.05 * rng.standard_normal(256)],
        "noise": [tail, np.sign(rng.standard_normal(256)), np.sign(np.sin(2 * np.pi * 100 * time))],
        "silence": [np.zeros(256), np.full(256, 0.3)],
    }
    clips = {reason: [np.tile(clip, 3) for clip in group] for reason, group in clips.items()}
    side_by_side = np.stack([clip for group in clips.values() for clip in group]).astype(np.float32)
    for size in (768, 50):
        detector = NoiseDetector(len(side_by_side), RATE)
        for first in range(0, 768, size):
            detector.add(side_by_side[:, first : first + size])
        assert detector.reasons() == [reason for reason, group in clips.items() for _ in group]


def test_a_burst_that_ends_in_silence_is_told_from_a_word_that_does() -> None:
    rate, rng = 8000, np.random.default_rng(0)
    word = 0.5 * np.sin(2 * np.pi * 200 * np.arange(rate) / rate)
    hiss = rng.uniform(-0.8, 0.8, rate)
    clips = [  # what is heard, seconds of it, and of the silence after it
        (word, 0.2, 0.8, ""),
        (word, 0.06, 0.94, "silence"),
        (word, 0.06, 0.0, ""),
        (hiss, 0.2, 0.8, "noise"),
        (hiss, 0.06, 0.94, "silence"),
        (np.concatenate((word[:1600], hiss[:1280])), 0.36, 0.64, ""),
        (word, 0.5, 1.5, ""),
    ]
    for sound, heard, silent, reason in clips:
        detector = NoiseDetector(1, rate)
        still = 0.004 * rng.uniform(-1, 1, round(silent * rate))
        detector.add(np.concatenate((sound[: round(heard * rate)], still)).astype(np.float32)[None])
        assert detector.reasons() == [reason], (heard, silent, reason)


def generate(run: RunFolder, out: Path, *flags: str) -> str | None:
    arguments = [str(run.root), f"--out={out}", "--num=5", "--seconds=0.02", "--batch=2", *flags]
    return cli.run("generate", arguments)


def table(out: Path) -> list[dict[str, str]]:
    with (out / "clips.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_stopped_generation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", replace(TINY, n_classes=2), labels=("one", "two"))
    assert "5 clips" in str(generate(run, tmp_path / "whole"))
    sample, calls = Sampler.sample, []

    def stop_at_second_batch(self: Sampler, clips: range, *arguments: Any) -> Any:
        calls.append(clips)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return sample(self, clips, *arguments)

    monkeypatch.setattr(Sampler, "sample", stop_at_second_batch)
    with pytest.raises(KeyboardInterrupt):
        generate(run, tmp_path / "cut")
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == [
        "clip-00000.wav", "clip-00001.wav", "clips.csv", "generation.json",
    ]  # fmt: skip
    generate(run, tmp_path / "cut")
    assert calls == [range(2), range(2, 4), range(2, 4), range(4, 5)]
    assert table(tmp_path / "cut") == table(tmp_path / "whole")
    for path in (tmp_path / "whole").glob("*.wav"):
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes()
    assert "all were there already" in str(generate(run, tmp_path / "cut"))
    with pytest.raises(ValueError, match=r"clips with seed = 0, now it is 1"):
        generate(run, tmp_path / "cut", "--seed=1")


def test_the_table_says_what_the_files_hold(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", replace(TINY, n_classes=2), labels=("one", "two"))
    generate(run, tmp_path / "out", "--format=flac")
    rows = table(tmp_path / "out")
    assert [row["label"] for row in rows] == ["one", "two", "one", "two", "one"]
    by_rank = sorted(rows, key=lambda row: int(row["rank"]))
    likelihoods = [float(row["log_likelihood"]) for row in by_rank]
    assert likelihoods == sorted(likelihoods, reverse=True)
    codes, log_p = drawn(Sampler(load(run), Drawing(), 128, 0), range(2), 20, labels=np.array([0, 1]))
    samples, rate = soundfile.read(tmp_path / "out" / rows[1]["file"])
    assert rate == RATE
    assert np.allclose(samples, Quantiser().decode(codes[1].numpy()), atol=1 / 32768)
    assert float(rows[1]["log_likelihood"]) == pytest.approx(float(log_p[1].sum()), rel=1e-5)
    bits = -float(rows[1]["log_likelihood"]) / 20 / math.log(2)
    assert float(rows[1]["bits_per_sample"]) == pytest.approx(bits)


def test_guided_clips_are_written_and_go_on_with_the_same_guidance(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", replace(TINY, n_classes=2), labels=("one", "two"), label_dropout=0.1)
    generate(run, tmp_path / "out", "--guidance=2")
    sampler = Sampler(load(run), Drawing(guidance=2.0), 128, 0)
    _, log_p = drawn(sampler, range(2), 20, labels=np.array([0, 1]))
    assert float(table(tmp_path / "out")[1]["log_likelihood"]) == pytest.approx(
        float(log_p[1].sum()), rel=1e-5
    )
    with pytest.raises(ValueError, match=r"clips with guidance = 2.0, now it is 3.0"):
        generate(run, tmp_path / "out", "--guidance=3")


def test_clips_of_before_there_was_guidance_go_on_without_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", replace(TINY, n_classes=2), labels=("one", "two"), label_dropout=0.1)
    generate(run, tmp_path / "out", "--num=2")
    settings = json.loads((tmp_path / "out" / "generation.json").read_text())
    assert settings.pop("guidance") == 1.0
    (tmp_path / "out" / "generation.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"clips with guidance = 1.0, now it is 2.0"):
        generate(run, tmp_path / "out", "--guidance=2")
    generate(run, tmp_path / "out")
    generate(run, tmp_path / "whole")
    assert table(tmp_path / "out") == table(tmp_path / "whole")


def load(run: RunFolder) -> WaveformLM:
    from bioaudio_recipes.pretrain.starting_waveform_model import load_waveform_model

    return load_waveform_model(run.model)[0]


def test_a_prompt_of_another_rate_begins_every_clip(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    wave = 0.3 * np.sin(2 * np.pi * 50 * np.arange(800) / 8000)
    soundfile.write(tmp_path / "prompt.wav", np.stack([wave, wave], 1), 8000)
    generate(run, tmp_path / "out", f"--prompt={tmp_path / 'prompt.wav'}")
    clips = [soundfile.read(path)[0] for path in sorted((tmp_path / "out").glob("*.wav"))]
    assert {len(clip) for clip in clips} == {100 + 20}
    assert all(np.array_equal(clip[:100], clips[0][:100]) for clip in clips)
    assert not np.array_equal(clips[0], clips[1])
    assert np.abs(clips[0][20:80]).max() > 0.9, "scaled as a file of its own"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--label=3"], "--label 3: this network was trained without labels"),
        (["--prompt=none.wav"], "--prompt none.wav: no such file"),
        (["--temperature=-1"], "--temperature must be 0 or more, got -1.0"),
        (["--top-k=0"], "--top-k must be 1 or more, got 0"),
        (["--top-p=1.5"], "--top-p must lie in (0, 1], got 1.5"),
        (["--guidance=-1"], "--guidance must lie in [0, 1000], got -1.0"),
        (["--guidance=1e300"], "--guidance must lie in [0, 1000], got 1e+300"),
        (["--guidance=2"], "--guidance 2 needs a network trained with --data.conditional true"),
        (["--seed=-1"], "--seed must be 0 or more, got -1"),
        (["--seconds=0"], "--seconds must be one sample or more"),
        (["--batch=0"], "--batch must be 1 or more"),
        (["--device=tpu9"], "--device 'tpu9' cannot be used here"),
    ],
)
def test_bad_input_exits_2_in_one_line(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(SystemExit) as exit_:
        cli.main(["generate", str(run.root), *flags])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (run.root / "generated").exists()


def test_an_unknown_label_names_those_that_are_known(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", replace(TINY, n_classes=2), labels=("one", "two"))
    with pytest.raises(ValueError, match="'three' is unknown; this network knows one, two"):
        generate(run, tmp_path / "out", "--label=three")


def test_a_label_may_be_a_number_in_yaml(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", replace(TINY, n_classes=2), labels=("3", "4"))
    (tmp_path / "four.yaml").write_text("label: 4\n")
    generate(run, tmp_path / "out", f"--config={tmp_path / 'four.yaml'}")
    assert {row["label"] for row in table(tmp_path / "out")} == {"4"}
    assert "all were there already" in str(generate(run, tmp_path / "out", "--label=4"))


def test_a_run_of_another_kind_is_sent_to_its_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound, dna = make_run(tmp_path / "sound"), RunFolder(tmp_path / "dna").create()
    model = CausalLM(MambaConfig(d_model=8, n_layer=1, d_state=4), torch.Generator().manual_seed(0))
    save_pretrained(model, dna.model, {"vocabulary": DNA.to_dict()})
    save_pretrained(model, tmp_path / "classifier", {"vocabulary": DNA.to_dict(), "classifier": {}})
    (tmp_path / "genome.fa").write_text(">one\nGATTACA\n")
    for run, message in (
        (
            sound.root,
            "holds a model of sound, this command is for DNA; for a run over sound there are `bioaudio gen",
        ),
        (tmp_path / "classifier", "holds a classifier, judged when it was fine-tuned"),
    ):
        for arguments in (
            ["evaluate", str(run)],
            ["evaluate", str(run), f"--genome={tmp_path / 'genome.fa'}"],
            ["score", str(run), str(tmp_path / "genome.fa"), f"--out={tmp_path / 'out'}"],
        ):
            assert message in refused(arguments, capsys)
    message = (
        "holds a model of DNA, this command is for sound; for a run over DNA there are `bioaudio evaluate`"
    )
    assert message in refused(["generate", str(dna.root)], capsys)
    (dna.root / "finetune").mkdir()
    assert message in refused(["generate", str(dna.root)], capsys)
    dna.model.rename(tmp_path / "elsewhere")
    assert "holds a classifier" in refused(["generate", str(dna.root)], capsys)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert exit_.value.code == 2
    return line


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="is not empty, and holds no generation"):
        generate(make_run(tmp_path / "run"), tmp_path / "out")
