"""`bioaudio report`: one self-contained HTML page about a run, or several beside each other."""

from __future__ import annotations

from pathlib import Path

from bioaudio_recipes.report.page import report_page
from bioaudio_recipes.report.run_results import read_run
from bioaudio_recipes.run_folder import RunFolder, now


def report(runs: list[Path], *, out: Path | None = None) -> str:
    """Write one HTML page about runs, which opens without a network.

    Args:
        runs: Run folders; parts that a run does not have are left out.
        out: File to write; report.html in the first run's folder unless given.
    """
    if out is not None and out.is_dir():
        raise IsADirectoryError(f"--out {out} is a folder; give a file, as {out / 'report.html'}")
    page = report_page([read_run(run) for run in runs], now())
    path = out or RunFolder(runs[0]).report
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
    return str(path)
