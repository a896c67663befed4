"""Every command of the README runs: on small data, and cut down to a few steps where it trains."""

from __future__ import annotations

import gzip
import hashlib
import re
import shlex
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from bioaudio_data import sources
from bioaudio_data.audio import layout
from bioaudio_data.samples import great_apes_chr22
from bioaudio_data.samples.synthetic_speech import write_synthetic_speech
from bioaudio_recipes import cli
from fake_fluidsynth import install_fluidsynth

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for language, block in BLOCKS
    if language == "bash"
    for line in block.splitlines()
    if line.startswith("bioaudio ")
]
FEW_STEPS = "[{length: 256, steps: 2}, {length: 1024, steps: 1}]"
CUT_DOWN = {
    "pretrain": [
        *("--schedule.stages", FEW_STEPS, "--schedule.tokens_per_step=4096", "--model=mamba_dna_250k"),
        *("--trainer.tokens_per_microbatch=4096", "--trainer.precision=32-true", "--trainer.num_workers=0"),
        *("--data.guard=2000", "--validation.lengths=[1024]", "--validation.max_bases=4096"),
    ],
    "pretrain-audio": [
        *("--schedule.stages", "[{length: 500, steps: 2}]", "--schedule.tokens_per_step=1000"),
        *("--trainer.tokens_per_microbatch=1000", "--validation.max_samples=2000"),
    ],
    "generate": ["--num=2", "--seconds=0.002"],
    "evaluate-speech": ["--training.epochs=1", "--resamples=2"],
    "finetune-audio": [
        *("--length=500", "--model.d_model=8", "--model.n_layer=1", "--schedule.epochs=1"),
        *("--schedule.steps_per_epoch=1", "--schedule.batch_size=2", "--trainer.num_workers=0"),
    ],
    "finetune": ["--schedule.epochs=2", "--schedule.steps_per_epoch=1", "--evaluation.windows=2"],
    "evaluate": ["--lengths=[256, 1024]", "--precision=32-true"],
    "score": ["--tokens-per-batch=4096"],
    "bench": ["--lengths=64", "--d_model=16", "--rounds=1", "--seconds=0.1"],
    "download": ["--mirror=mirror"],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the README speaks of."""
    for species in ("human", "gorilla"):
        shutil.copy(great_apes_chr22()[species], tmp_path / f"{species}.fa.gz")
    (tmp_path / "chr21.fa.gz").write_bytes(gzip.compress(b">chr21\n" + b"GATTACA" * 1000))
    (tmp_path / "mirror").mkdir()
    shutil.copy(tmp_path / "human.fa.gz", tmp_path / "mirror" / "hg38.fa.gz")
    md5 = hashlib.md5((tmp_path / "human.fa.gz").read_bytes()).hexdigest()
    (tmp_path / "mirror" / "md5sum.txt").write_text(f"{md5}  hg38.fa.gz\n")
    recordings = write_synthetic_speech(tmp_path / "recordings", takes=3, sample_rate=2000)
    one_voice = [path for path in recordings if "synth_low" in path.name]
    archive = speech_commands(tmp_path / "mirror", one_voice)
    known = replace(
        sources.SOURCES["speech_commands"], sha256=hashlib.sha256(archive.read_bytes()).hexdigest()
    )
    monkeypatch.setitem(sources.SOURCES, "speech_commands", known)
    install_fluidsynth(tmp_path / "fluidsynth", monkeypatch).rename(tmp_path / "piano.sf2")
    (tmp_path / "midi").mkdir()
    for piece in range(17):  # the fewest of which 6 % is one
        (tmp_path / f"midi/{piece}.mid").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def speech_commands(folder: Path, recordings: list[Path]) -> Path:
    """An archive laid out as Speech Commands, with one take of each digit in each list, and one in none."""
    archive = folder / "speech_commands_v0.02.tar.gz"
    words = layout("sc09")[0].wanted_labels
    with tarfile.open(archive, "w:gz") as tar:
        for recording in recordings:
            digit, *_, take = recording.stem.split("_")
            tar.add(recording, f"{words[int(digit)]}/0a7c2a8d_nohash_{take}.wav")
        for take, name in enumerate(("validation_list.txt", "testing_list.txt")):
            (folder / name).write_text("".join(f"{word}/0a7c2a8d_nohash_{take}.wav\n" for word in words))
            tar.add(folder / name, name)
    return archive


def test_commands_run_in_the_order_of_the_readme(folder: Path) -> None:
    assert len(COMMANDS) >= 12
    for _, command, *arguments in COMMANDS:
        assert cli.run(command, [*arguments, *CUT_DOWN.get(command, [])])
    assert (folder / "runs/first/report.html").is_file()
    assert (folder / "downloads").is_dir()
    assert (folder / "scores/chr21/reverse.bedGraph").is_file()


def test_every_command_is_in_the_readme() -> None:
    table = re.findall(r"^\| `([\w-]+)` \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert table[: len(cli.COMMANDS)] == list(cli.COMMANDS)


def test_python_runs() -> None:
    (code,) = [block for language, block in BLOCKS if language == "python"]
    names: dict[str, object] = {}
    exec(code, names)
    assert tuple(names["next_logits"].shape) == (1, 16)  # pyright: ignore[reportAttributeAccessIssue]


def test_a_line_of_python_makes_recordings_to_try_it_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line for language, block in BLOCKS if language == "bash" for line in block.splitlines()]
    ((_, _, code),) = [shlex.split(line) for line in lines if line.startswith("python -c")]
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    (pattern,) = {word for command in COMMANDS for word in command if "(?P<label>" in word}
    made = sorted(path.stem for path in (tmp_path / "recordings").iterdir())
    assert len(made) == 10 * 3 * 12
    assert all(re.fullmatch(pattern, stem) for stem in made)


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [line.split()[1] for language, block in BLOCKS if language == "bash"
               for line in block.splitlines() if line.startswith("make ")]  # fmt: skip
    assert targets == ["demo", "demo-audio", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
