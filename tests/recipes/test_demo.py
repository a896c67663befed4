"""`bioaudio demo` tells the whole story, down to the report."""

from __future__ import annotations

from pathlib import Path

import pytest
from bioaudio_recipes import cli


def test_demo_ends_with_a_report_of_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = cli.run("demo", ["--out", str(tmp_path / "run"), "--quick"])
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert result is not None
    assert str(tmp_path / "run" / "report.html") in result
    assert "order-16" in report
    assert "orangutan" in report
    assert "[8/8] bioaudio report" in capsys.readouterr().err


def test_audio_demo_ends_with_clips_and_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = cli.run("demo-audio", ["--out", str(tmp_path / "run"), "--quick"])
    assert str(tmp_path / "run" / "report.html") in str(result)
    assert len(list((tmp_path / "run" / "generated").glob("*.wav"))) == 10
    assert "[4/4] bioaudio report" in capsys.readouterr().err
