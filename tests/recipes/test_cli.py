"""The command line says in one line what is wrong, and where."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import NoReturn

import pytest
from bioaudio_recipes import cli
from bioaudio_recipes.bad_input import of_the_system
from pretrain_runs import make_store


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        ("seed: 1\nmodle:\n  d_model: 3\n", "bad.yaml, line 3: Option 'modle.d_model' is not accepted"),
        ("model:\n  d_model: -3\n  n_layer: 2\n", "d_model must be a positive integer, got -3"),
    ],
)
def test_a_wrong_yaml_is_one_line(
    yaml: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(yaml)
    stages = "[{length: 16, steps: 1}]"
    arguments = ["--config", str(path), "--out", str(tmp_path / "run"), "--data.genomes=[x]"]
    with pytest.raises(SystemExit) as caught:
        cli.main(["pretrain", *arguments, "--schedule.stages", stages])
    error = capsys.readouterr().err
    assert caught.value.code == cli.USAGE_ERROR
    assert error.count("\n") == 1
    assert expected in error
    assert not (tmp_path / "run").exists()


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == cli.USAGE_ERROR
    assert "Errno" not in line
    return line


@pytest.mark.parametrize("command", ["pretrain", "pretrain-audio", "finetune", "finetune-audio"])
def test_an_unknown_recipe_or_preset_is_answered_with_those_that_exist(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag in (["--config", "no-such-recipe"], ["--config=no-such-recipe"]):
        line = refused([command, *flag, "--out=x"], capsys)
        assert "--config no-such-recipe: no such file, nor one of the recipes" in line
        names = line.partition("recipes ")[2].split(", ")
        assert names == sorted(f"{command}/{path.stem}" for path in (cli.RECIPES / command).glob("*"))
    line = refused([command, "--model", "no_such_preset", "--out=x"], capsys)
    presets = (
        "mamba_speech_small, mamba_speech_large" if "audio" in command else "mamba_dna_250k, mamba_dna_700k"
    )
    assert "--model no_such_preset: allowed are" in line
    assert presets in line


def test_a_folder_is_no_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"--config {tmp_path} is a folder" in refused(["pretrain", "--config", str(tmp_path)], capsys)
    assert refused(["generate", "--config", "gone.yaml"], capsys).endswith("--config gone.yaml: no such file")


def test_the_last_of_several_configs_is_blamed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.yaml").write_text("seed: 1\nmodel: no_such_preset\n")
    own = f"--config={tmp_path / 'own.yaml'}"
    line = refused(["pretrain-audio", "--config", "pretrain-audio/demo", own, "--data.store=x"], capsys)
    assert "own.yaml, line 2: --model no_such_preset: allowed are" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["download", "random.fa", "--out=file"], "file exists and is not a folder"),
        (["download", "random.fa", "--out=file/below"], "file exists and is not a folder"),
        (["prepare-genome", "random.fa", "--out=file/below"], "file exists and is not a folder"),
        (["report", "run", "--out=folder"], "--out folder is a folder; give a file, as folder/report.html"),
        (["report", "run", "--out=file/below.html"], "file exists and is not a folder"),
        (
            [
                *("pretrain", "--config=pretrain/demo", "--data.genomes=[store]", "--out=file"),
                *("--data.guard=10", "--schedule.stages=[{length: 64, steps: 1}]"),
                *("--model=mamba_dna_250k", "--validation.lengths=[64]"),
            ],
            "file exists and is not a folder",
        ),
        (["finetune", "--sequences=folder", "--out=x"], "folder is a folder, not a file"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
def test_a_file_in_the_place_of_a_folder_is_named(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_store(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder").mkdir()
    Path("run").mkdir()
    Path("run/environment.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    assert refused(arguments, capsys).endswith(message)
    assert sorted(tmp_path.rglob("*")) == before


def test_errors_of_the_system_read_as_path_and_reason() -> None:
    assert of_the_system(PermissionError(errno.EACCES, "Permission denied", "x")) == "x: permission denied"
    assert of_the_system(OSError(errno.ENOSPC, "No space left on device")) == "No space left on device"
    assert of_the_system(IsADirectoryError(errno.EISDIR, "Is a directory", "a", None, "b")).startswith(
        "b is a"
    )
    assert of_the_system(FileNotFoundError("--x y: no such file")) == "--x y: no such file"


def test_ctrl_c_is_exit_code_130_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(command: str, arguments: list[str]) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupted)
    with pytest.raises(SystemExit) as caught:
        cli.main(["doctor"])
    (line,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == 130
    assert line.startswith("bioaudio: stopped; the same command goes on")


def test_unknown_command_lists_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["pretrian"])
    assert caught.value.code == cli.USAGE_ERROR
    assert "pretrain" in capsys.readouterr().err


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_command_explains_its_flags(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: bioaudio {command}" in capsys.readouterr().out
