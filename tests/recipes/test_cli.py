"""The command line says in one line what is wrong, and where."""

from __future__ import annotations

from pathlib import Path

import pytest
from bioaudio_recipes import cli


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
