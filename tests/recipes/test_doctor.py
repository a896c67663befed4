"""`bioaudio doctor` names what is here, and why the rest is not."""

from __future__ import annotations

import pytest
import torch
from bioaudio_recipes.cli import main
from bioaudio_recipes.commands import doctor


def test_names_versions_backends_and_packages(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    text = capsys.readouterr().out
    for expected in ("Python", torch.__version__.partition("+")[0], "cores", "GiB", "GPU", "mamba_ssm"):
        assert expected in text
    for backend in ("reference", "cpu", "triton"):
        assert f"  {backend} " in text


def test_says_why_a_backend_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_backends", lambda: {"reference": None, "triton": "no such luck"})
    text = doctor.doctor()
    assert "yes (any device" in text
    assert "no: no such luck" in text


def test_says_how_to_get_an_optional_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.OPTIONAL, "no_such_package", "pip install it")
    assert "no_such_package  not installed: pip install it" in doctor.doctor()
